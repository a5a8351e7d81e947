"""Decides what follows from what is known: facts in, a verdict with its reasons out. Pure."""
