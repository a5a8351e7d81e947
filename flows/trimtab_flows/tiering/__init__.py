"""Decides where data lies: hot, warm, cold or gone, by use, age, cost and what must be kept; and what a fetch costs."""
