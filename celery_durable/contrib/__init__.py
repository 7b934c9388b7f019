"""Durable runs and the frameworks around them: Django, Flask, and events that come in over HTTP."""
