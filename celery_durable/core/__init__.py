"""The pure heart: no clock, no randomness, no database, no Celery.

Start with ``replay.py``: it holds the one decision that everything else serves.
"""
