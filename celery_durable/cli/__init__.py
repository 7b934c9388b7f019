"""``celery -A proj durable ...``: runs, looked at and operated from a shell.

Each command is a function over :class:`celery_durable.Durable`; what they share is in :mod:`.session`.
"""

from __future__ import annotations

from typing import Any

import click

from .acting import cancel, pause, resume, retry
from .console import console
from .copying import export, fork, replay
from .emitting import emit, events
from .examining import doctor
from .listing import runs
from .session import Commands
from .showing import show
from .upkeep import check, migrate, prune, stats
from .watching import watch

__all__ = ["durable"]


@click.group(cls=Commands)
@click.pass_context
def durable(context: click.Context) -> None:
    """Durable runs: look at them, operate them.

    All commands have --json. They exit with 0 if it is done, with 1 if there is no such run or its status does not
    allow it, and with 2 if they were given something wrong.
    """
    app: Any = context.obj.app
    if app.main == "default" and not app.conf.get("durable_database_url", None):
        raise click.UsageError("no app was given: pass -A, as in  celery -A proj durable runs")


for _command in (
    runs, show, watch, console, emit, events, cancel, pause, resume, retry, fork, replay, export, stats, doctor, check,
    migrate, prune,
):  # fmt: skip
    durable.add_command(_command)
