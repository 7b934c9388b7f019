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
        if not _is_durable(store, connection):
            raise ConfigurationError(
                f"the Django database {connection.alias!r} is {_url(connection).render_as_string()}, and the durable "
                f"database is {store.engine.url.render_as_string()}: only what is written to one database commits "
                "together. Use the alias of the durable database, or set durable_database_url to this one."
            )
        store.prepare()
        self._connection = connection
        self._execute = partial(_execute, _dialect(store), connection)

    def execute(self, statement: Any, values: Any) -> Any:
        return self._execute(statement, values)

    def after_commit(self, action: Callable[[], None]) -> None:
        self._connection.on_commit(action)


def _dialect(store: Store) -> Any:
    return _DIALECTS[store.dialect.name].dialect(paramstyle="format")


def _execute(dialect: Any, connection: Any, statement: Any, values: Any) -> _Rows:
    compiled = statement.compile(dialect=dialect)
    given = compiled.construct_params(values)
    processors = compiled._bind_processors  # what the payload codec does, among others
    parameters = [
        processors[name](given[name]) if name in processors else given[name] for name in compiled.positiontup or ()
    ]
    cursor = connection.cursor()
    cursor.execute(str(compiled), parameters)
    return _Rows(cursor)


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
    options = settings.get("OPTIONS") or {}
    return URL.create(
        connection.vendor,
        settings.get("USER") or None,
        settings.get("PASSWORD") or None,
        settings.get("HOST") or None,
        int(settings["PORT"]) if settings.get("PORT") else None,
        str(settings.get("NAME") or ""),
        {"options": options["options"]} if "options" in options else {},
    )


def _is_durable(store: Store, connection: Any) -> bool:
    """Whether a Django connection is on the durable database, by its name or by the mark that is there."""
    url = _url(connection)
    if connection.vendor != store.dialect.name:
        return False
    return same_database(url, store.engine.url) or is_ours(
        store,
        url,
        partial(_django().transaction.atomic, using=connection.alias),
        partial(_execute, _dialect(store), connection),
    )


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


def _current(store: Store, using: str | None) -> Any:
    """The Django connection by which to write in the current transaction, if that is on the durable database."""
    connections = _django().connections
    alias = using or _durable_alias(store)
    if alias is None or not _is_durable(store, connections[alias]):
        return None
    others = any(other.in_atomic_block for other in connections.all() if other.alias != alias)
    return connections[alias] if connections[alias].in_atomic_block or not others else None


def start_on_commit(task: DurableTask, args: Any, kwargs: Any, using: str | None, options: dict[str, Any]) -> Any:
    """Start a run in a Django transaction: recorded in it, where that is on the durable database; otherwise
    right after it has committed, as Celery's own tasks are."""
    connection = _current(runtime_of(task.app).store, using)
    if connection is not None:
        return task.apply_async(args, kwargs, session=connection, **options)
    task_id = options.pop("task_id", None) or uuid()
    start = partial(task.apply_async, args, kwargs, task_id=task_id, **options)
    _django().transaction.on_commit(start, using=using)
    return task.AsyncResult(task_id)


def emit_in_django(name: str, payload: Any, *, using: str | None, **details: Any) -> EventReceipt:
    """Emit in the current transaction of the Django database that is the durable one."""
    app = the_app()
    store = runtime_of(app).store
    connection = _current(store, using)
    if connection is None and using is not None:
        connection = _django().connections[using]  # which will be refused, with the reason
    if connection is None:
        connections = _django().connections
        named = ", ".join(f"{alias}: {_url(connections[alias]).render_as_string()}" for alias in connections)
        raise ConfigurationError(
            f"the event {name!r} can't commit with your rows: the durable database is "
            f"{store.engine.url.render_as_string()}, and the current transaction is on another one ({named}). Use "
            "transaction.atomic of the durable database, set durable_database_url to yours, or use "
            "celery_durable.emit in transaction.on_commit"
        )
    return emit_by(app, name, payload, session=connection, **details)


def emit_on_commit(name: str, payload: Any, *, using: str | None, **details: Any) -> None:
    """Emit in the current transaction where it is on the durable database, otherwise once it has committed."""
    app = the_app()
    connection = _current(runtime_of(app).store, using)
    if connection is not None:
        emit_by(app, name, payload, session=connection, **details)
    else:
        _django().transaction.on_commit(partial(emit_by, app, name, payload, **details), using=using)
