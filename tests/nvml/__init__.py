"""A libnvidia-ml.so.1 of this project's own, for machines without a GPU."""
