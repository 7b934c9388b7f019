"""A shop on two sites, Django and Flask, and one Celery app. README.md in the folder above is the way in."""

from .celery import app as celery_app

__all__ = ["celery_app"]
