"""The life of a run on a host."""
