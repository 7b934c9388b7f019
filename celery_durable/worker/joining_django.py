"""Writing to the durable database by a Django connection, inside ``transaction.atomic``.

Whatever driver Django uses: our statements are handed to its cursor as text.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import uuid
from sqlalchemy import URL
from sqlalchemy.dialects import mysql, postgresql, sqlite

from ..errors import ConfigurationError
from ..model import EventReceipt
from ..store.store import Store
from .apps import the_app
from .emitting import emit_by
from .joining import Joined, is_ours, same_database
from .runtime import runtime_of

if TYPE_CHECKING:
    from .task import DurableTask

__all__ = ["JoinedDjango", "emit_in_django", "emit_on_commit", "start_on_commit"]

_DIALECTS = {"postgresql": postgresql, "mysql": mysql, "sqlite": sqlite}


class JoinedDjango(Joined):
    """The transaction of a Django connection; each statement for itself where there is none."""

    def __init__(self, store: Store, connection: Any) -> None:
        url = _url(connection)
        store.prepare()
        self._connection = connection
        self._dialect: Any = _DIALECTS[store.dialect.name].dialect(paramstyle="format")
        if not (same_database(url, store.engine.url) or is_ours(store, url, self.execute)):
            raise ConfigurationError(
                f"the Django database {connection.alias!r} is {url.render_as_string(hide_password=True)}, and the "
                f"durable database is {store.engine.url.render_as_string(hide_password=True)}: only what is written to "
                "one database commits together. Use the alias of the durable database, or set durable_database_url to "
                "this one."
            )

    def execute(self, statement: Any, values: Any) -> Any:
        compiled = statement.compile(dialect=self._dialect)
        given = compiled.construct_params(values)
        processors = compiled._bind_processors  # what the payload codec does, among others
        parameters = [
            processors[name](given[name]) if name in processors else given[name] for name in compiled.positiontup or ()
        ]
        cursor = self._connection.cursor()
        cursor.execute(str(compiled), parameters)
        return _Rows(cursor)

    def after_commit(self, action: Callable[[], None]) -> None:
        self._connection.on_commit(action)


class _Rows:
    """A cursor, with the few things that the store asks of a SQLAlchemy result."""

    def __init__(self, cursor: Any) -> None:
        self._cursor = cursor
        self.rowcount: int = cursor.rowcount

    def first(self) -> Any:
        row = self._cursor.fetchone()
        self._cursor.close()
        return row

    def scalar(self) -> Any:
        row = self.first()
        return None if row is None else row[0]

    def mappings(self) -> _Mappings:
        return _Mappings(self, [column[0] for column in self._cursor.description])


class _Mappings:
    def __init__(self, rows: _Rows, names: list[str]) -> None:
        self._rows = rows
        self._names = names

    def first(self) -> dict[str, Any] | None:
        row = self._rows.first()
        return None if row is None else dict(zip(self._names, row, strict=True))


def _url(connection: Any) -> URL:
    """A Django connection's database as SQLAlchemy writes it."""
    settings = connection.settings_dict
    return URL.create(
        connection.vendor,
        settings.get("USER") or None,
        settings.get("PASSWORD") or None,
        settings.get("HOST") or None,
        int(settings["PORT"]) if settings.get("PORT") else None,
        str(settings.get("NAME") or ""),
    )


def _is_durable(store: Store, connection: Any) -> bool:
    return connection.vendor in _DIALECTS and same_database(_url(connection), store.engine.url)


def _django() -> Any:
    """Django's ``db`` module, in a process that uses Django."""
    if "django" not in sys.modules:
        raise ConfigurationError(
            "this follows Django's transactions, and this process does not use Django. With SQLAlchemy: "
            "apply_async(..., session=session) or emit(..., session=session)"
        )
    import django.db

    return django.db


def _durable_alias(store: Store) -> str | None:
    """The Django database that is the durable one."""
    connections = _django().connections
    for alias in connections:
        if _is_durable(store, connections[alias]):
            return str(alias)
    return None


def start_on_commit(task: DurableTask, args: Any, kwargs: Any, using: str | None, options: dict[str, Any]) -> Any:
    """Start a run in a Django transaction: recorded in it, where that is on the durable database; otherwise
    right after it has committed, as Celery's own tasks are."""
    db = _django()
    store = runtime_of(task.app).store
    alias = using or _durable_alias(store)
    if alias is not None and _is_durable(store, db.connections[alias]):
        return task.apply_async(args, kwargs, session=db.connections[alias], **options)
    task_id = options.pop("task_id", None) or uuid()
    db.transaction.on_commit(partial(task.apply_async, args, kwargs, task_id=task_id, **options), using=using)
    return task.AsyncResult(task_id)


def emit_in_django(name: str, payload: Any, *, using: str | None, **details: Any) -> EventReceipt:
    """Emit in the current transaction of the Django database that is the durable one."""
    connections = _django().connections
    app = the_app()
    alias = using or _durable_alias(runtime_of(app).store)
    if alias is None:
        raise ConfigurationError(
            "none of Django's DATABASES ("
            + ", ".join(f"{name}: {_url(connections[name]).render_as_string()}" for name in connections)
            + f") is the durable database {runtime_of(app).store.engine.url.render_as_string()}, so an event can't "
            "commit with your rows: set durable_database_url to one of them, or use celery_durable.emit in "
            "transaction.on_commit"
        )
    return emit_by(app, name, payload, session=connections[alias], **details)


def emit_on_commit(name: str, payload: Any, *, using: str | None, **details: Any) -> None:
    """Emit in the current transaction where it is on the durable database, otherwise once it has committed."""
    db = _django()
    app = the_app()
    store = runtime_of(app).store
    alias = using or _durable_alias(store)
    if alias is not None and _is_durable(store, db.connections[alias]):
        emit_by(app, name, payload, session=db.connections[alias], **details)
    else:
        db.transaction.on_commit(partial(emit_by, app, name, payload, **details), using=using)
