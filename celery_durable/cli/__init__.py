"""``celery -A proj durable ...``"""

from __future__ import annotations

from typing import Any

import click
from celery import Celery

from ..errors import DurableError
from ..worker.durable import Durable

__all__ = ["durable"]


@click.group(help="Durable runs: their tables and their state.")
@click.pass_context
def durable(context: click.Context) -> None:
    app: Any = context.obj.app
    if app.main == "default" and not app.conf.get("durable_database_url", None):
        raise click.UsageError("no app was given: pass -A, as in  celery -A proj durable migrate")


@durable.command(help="Make or upgrade the tables in durable_database_url.")
@click.pass_context
def migrate(context: click.Context) -> None:
    app: Celery = context.obj.app
    try:
        changed = Durable(app).migrate()
    except DurableError as error:
        raise click.ClickException(str(error)) from error
    click.echo("The durable tables are made." if changed else "The durable tables are up to date.")
