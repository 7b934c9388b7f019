"""Measurements that a stranger can repeat: ``make bench``."""
