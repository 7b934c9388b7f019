"""The Flask extension."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from celery import Celery
from celery.bin.base import CLIContext
from celery.canvas import Signature
from celery.result import AsyncResult
from flask import Flask, current_app

from ...cli import durable as commands
from ...errors import ConfigurationError
from ...model import EventReceipt
from ...worker.durable import Durable
from ...worker.runtime import plain_app
from ...worker.task import DurableTask
from .blueprints import console_blueprint, events_blueprint
from .contexts import give_contexts

__all__ = ["CeleryDurable"]

_NAME = "celery_durable"


class CeleryDurable:
    """What a Flask app has of the durable tasks of a Celery app.

    With ``db``, a ``SQLAlchemy`` of Flask-SQLAlchemy on the durable database, what is emitted and started by this
    object commits with the rows in ``db.session``, or not at all. The Celery app is the one given here, or else that in
    ``flask_app.extensions["celery"]``, where Flask's own documentation puts it. One object serves several Flask apps:
    ``current_app`` decides which is meant.
    """

    def __init__(self, celery_app: Celery | None = None, flask_app: Flask | None = None, db: Any = None) -> None:
        self._celery_app = celery_app
        self._db = db
        if flask_app is not None:
            self.init_app(flask_app)

    def init_app(self, flask_app: Flask) -> None:
        """Make a Flask app ready: its context is there in durable tasks, and ``flask durable`` is a command.

        All settings are Celery's, so the Flask app has them where it has the rest of Celery's configuration.
        """
        celery_app = self._celery_app or flask_app.extensions.get("celery")
        if celery_app is None:
            raise ConfigurationError(
                f"CeleryDurable has no Celery app for the Flask app {flask_app.name!r}: hand it over, as in  "
                'CeleryDurable(celery_app), or set flask_app.extensions["celery"] before init_app'
            )
        if _NAME in flask_app.extensions:
            raise ConfigurationError(f"init_app was called twice for the Flask app {flask_app.name!r}: once is enough")
        celery_app = plain_app(celery_app)
        flask_app.extensions[_NAME] = celery_app
        give_contexts(celery_app, flask_app)
        flask_app.cli.add_command(_Commands(celery_app, flask_app))

    def mount(
        self,
        flask_app: Flask,
        *,
        events: str | None = "/durable",
        console: str | None = "/console",
        guard: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None,
        who: Callable[[], str | None] | None = None,
    ) -> None:
        """Mount the door for events and the console under these prefixes, or only one of them, with ``None`` for the
        other. Both are closed until it is said who may come in; ``guard`` and ``who`` are those of
        :func:`console_blueprint`."""
        celery_app = _celery_app_of(flask_app)
        if events is not None:
            flask_app.register_blueprint(events_blueprint(celery_app), url_prefix=events)
        if console is not None:
            flask_app.register_blueprint(console_blueprint(celery_app, guard=guard, who=who), url_prefix=console)

    @property
    def durable(self) -> Durable:
        """The client, for the current Flask app."""
        return Durable(_celery_app_of(current_app))

    def emit(
        self, name: str, payload: Any = None, *, key: str | None = None, event_id: str | None = None
    ) -> EventReceipt:
        """As :func:`celery_durable.emit`, in the transaction of ``db.session``: commit it."""
        return self.durable.emit(name, payload, key=key, event_id=event_id, session=self._session)

    def start(self, task: Any, /, *args: Any, **kwargs: Any) -> AsyncResult[Any]:
        """Start a run as ``task.delay`` does, in the transaction of ``db.session``: commit it.

        For more than arguments hand over a signature: ``start(ship.s("o-1").set(task_id="o-1", countdown=60))``.
        """
        celery_app = _celery_app_of(current_app)
        options: dict[str, Any] = {}
        if isinstance(task, Signature):
            if args or kwargs:
                raise TypeError(f"start({task!r}, ...): a signature has its arguments already, and was given others")
            args, kwargs, options = task.args, task.kwargs, task.options
        known = celery_app.tasks.get(task.task if isinstance(task, Signature) else getattr(task, "name", None))
        if not isinstance(known, DurableTask):
            raise TypeError(
                f"start({task!r}): a durable task of the Celery app {celery_app.main!r} is expected, or a signature of "
                "one. Other tasks and canvas have no record that could commit with rows"
            )
        return known.apply_async(args, kwargs, **options, session=self._session)

    @property
    def _session(self) -> Any:
        return None if self._db is None else self._db.session


def _celery_app_of(flask_app: Flask) -> Celery:
    found = flask_app.extensions.get(_NAME)
    if found is None:
        raise ConfigurationError(
            f"the Flask app {flask_app.name!r} knows no CeleryDurable: call its init_app with that app first"
        )
    return found


class _Commands(click.Command):
    """``flask durable ...``: the commands of ``celery -A proj durable ...``, told which Celery app is meant."""

    def __init__(self, celery_app: Celery, flask_app: Flask) -> None:
        super().__init__("durable", help=commands.help)
        self._celery_app = celery_app
        self._flask_app = flask_app

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        extra["obj"] = CLIContext(app=self._celery_app, no_color=False, workdir=None)
        context = commands.make_context(info_name, args, parent, **extra)
        context.with_resource(self._flask_app.app_context())
        return context
