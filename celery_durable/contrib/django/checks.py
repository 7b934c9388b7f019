"""What ``manage.py check`` says of the integration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core import checks
from django.db import connections

from ...errors import ConfigurationError
from ...store.dialects import make_engine
from ...store.schema import schema_state
from ...worker.django_databases import url_of
from .project import durable_alias, durable_settings, table_prefix

__all__ = ["check_settings", "check_tables"]


@checks.register("celery_durable")
def check_settings(**_: Any) -> list[checks.CheckMessage]:
    """Whether the settings are right, and the durable database is one of DATABASES."""
    try:
        settings, alias = durable_settings(), durable_alias()
    except ConfigurationError as error:
        return [checks.Error(str(error), hint="Correct the CELERY_DURABLE_... setting.", id="celery_durable.E001")]
    if settings.table_prefix != table_prefix():
        return [
            checks.Error(
                f"Celery's durable_table_prefix is {settings.table_prefix!r}, and Django's settings say "
                f"{table_prefix()!r}.",
                hint="Set CELERY_DURABLE_TABLE_PREFIX, and let the Celery app read Django's settings:  "
                'app.config_from_object("django.conf:settings", namespace="CELERY")',
                id="celery_durable.E002",
            )
        ]
    if alias is None:
        return [
            checks.Warning(
                "The durable database is none of DATABASES: events and starts can't commit with your rows, "
                "step.transaction can't cover the ORM, and manage.py migrate does not make its tables.",
                hint='Leave CELERY_DURABLE_DATABASE_URL out, or set it to "django:<alias>".',
                id="celery_durable.W001",
            )
        ]
    return []


@checks.register(checks.Tags.database)
def check_tables(databases: Sequence[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """Whether the durable tables are there. A warning: who is about to migrate is told so, too."""
    try:
        alias = durable_alias()
    except ConfigurationError:
        return []  # said above
    if alias is None or alias not in (databases or ()):
        return []
    engine = make_engine(url_of(connections[alias]))
    try:
        with engine.connect() as connection:
            state = schema_state(connection, table_prefix())
    finally:
        engine.dispose()
    if state == "current":
        return []
    return [
        checks.Warning(
            f"The durable tables in the database {alias!r} are {state}.",
            hint="Upgrade celery-durable in this environment."
            if state == "newer"
            else f"Run  manage.py migrate celery_durable --database {alias}",
            id="celery_durable.W002",
        )
    ]
