"""Decides what a run asks for, from what the work pool, the deployment, the run and a retry say of it."""
