"""A Django project. Its Celery app is loaded with it, as Celery's manual says."""

from .celery import app as celery_app

__all__ = ["celery_app"]
