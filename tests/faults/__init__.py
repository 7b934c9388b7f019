"""Faults of the database that are not a dead worker, each of them a real one."""
