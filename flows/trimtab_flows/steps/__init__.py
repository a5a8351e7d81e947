"""Steps turn checked tables into other tables: pure functions, no I/O."""
