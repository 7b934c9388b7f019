"""The Celery app of a Django project."""

from __future__ import annotations

from typing import Any

from celery import Celery, current_app
from celery.app.utils import find_app
from django.conf import settings

from ...errors import ConfigurationError

__all__ = ["celery_app"]


def celery_app() -> Any:
    """The app that ``CELERY_DURABLE_APP`` names, or else the process's current one."""
    named = getattr(settings, "CELERY_DURABLE_APP", None)
    if named is None:
        return current_app._get_current_object()
    try:
        app = find_app(named)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise ConfigurationError(
            f"the Django setting CELERY_DURABLE_APP names {named!r}, which can't be loaded: {error}"
        ) from error
    if not isinstance(app, Celery):
        raise ConfigurationError(f"the Django setting CELERY_DURABLE_APP names {named!r}, which is no Celery app")
    return app
