"""This host: its clock, and the processes of its runs."""
