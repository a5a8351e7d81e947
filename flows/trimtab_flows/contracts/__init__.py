"""Contracts decide whether a table may be handed to the next stage, and which of its rows may not."""
