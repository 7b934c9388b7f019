"""A Django project with the durable app among its own, as its users write one."""

from .celery import app as celery_app

__all__ = ["celery_app"]
