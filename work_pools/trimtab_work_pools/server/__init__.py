"""What is read from the Prefect server, and written to it."""
