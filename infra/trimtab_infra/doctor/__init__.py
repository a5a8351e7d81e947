"""The doctor decides whether this machine and the stack it speaks to are fit, and says what to do if not."""
