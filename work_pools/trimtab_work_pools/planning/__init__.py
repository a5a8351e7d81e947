"""Decides which run goes where, and says why another waits."""
