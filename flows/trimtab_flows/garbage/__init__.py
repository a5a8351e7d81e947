"""Decides which snapshots nothing needs any more, and removes them so that no writer is hurt."""
