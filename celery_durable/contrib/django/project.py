"""The Celery app of a Django project, and where its durable tables are."""

from __future__ import annotations

from typing import Any

from celery import Celery, current_app
from celery.app.utils import find_app
from django.conf import settings

from ...engine.settings import Settings
from ...errors import ConfigurationError
from ...worker.django_databases import django_alias
from ...worker.runtime import settings_of

__all__ = ["celery_app", "durable_alias", "durable_settings", "table_prefix"]


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


def durable_settings() -> Settings:
    """The settings of that app, as they are now: a test may have put another database in the place of the usual one."""
    return settings_of(celery_app().conf.get)


def durable_alias() -> str | None:
    """Which of DATABASES is the durable one."""
    return django_alias(durable_settings().database_url)


def table_prefix() -> str:
    """What the names of the durable tables begin with: needed before there is a Celery app."""
    return str(getattr(settings, "CELERY_DURABLE_TABLE_PREFIX", Settings.table_prefix))
