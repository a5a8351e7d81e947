"""Starts flow-run processes: how soon the first line of a flow runs, and nothing of which run goes where."""
