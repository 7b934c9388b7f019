"""Writing to the durable database by a Django connection, inside ``transaction.atomic``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import uuid

from ..errors import ConfigurationError
from ..model import EventReceipt
from .apps import the_app
from .django_databases import django_db, execute_in_django, is_durable, url_of
from .emitting import emit_by
from .joining import Joined
from .runtime import runtime_of

if TYPE_CHECKING:
    from ..store.store import Store
    from .task import DurableTask

__all__ = ["JoinedDjango", "emit_in_django", "emit_on_commit", "start_on_commit"]


class JoinedDjango(Joined):
    """The transaction of a Django connection; each statement for itself where there is none."""

    def __init__(self, store: Store, connection: Any) -> None:
        self.is_elsewhere = store.stands_in
        if not (self.is_elsewhere or is_durable(store, connection)):
            raise ConfigurationError(
                f"the Django database {connection.alias!r} is {url_of(connection).render_as_string()}, and the durable "
                f"database is {store.engine.url.render_as_string()}: only what is written to one database commits "
                "together. Use the alias of the durable database, or set durable_database_url to this one."
            )
        store.prepare()
        self._connection = connection
        self._execute = partial(execute_in_django, store, connection)

    def execute(self, statement: Any, values: Any) -> Any:
        return self._execute(statement, values)

    def after_commit(self, action: Callable[[], object]) -> None:
        self._connection.on_commit(action)


def _durable_alias(store: Store) -> str | None:
    """The Django database that is the durable one."""
    connections = django_db().connections
    for alias in connections:
        if is_durable(store, connections[alias]):
            return str(alias)
    return None


def _current(store: Store, using: str | None) -> Any:
    """The Django connection by which to write in the current transaction, if that is on the durable database."""
    connections = django_db().connections
    if store.stands_in:
        open_ones = [connection for connection in connections.all() if connection.in_atomic_block]
        return connections[using] if using else next(iter(open_ones), connections["default"])
    alias = using or _durable_alias(store)
    if alias is None or not is_durable(store, connections[alias]):
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
    django_db().transaction.on_commit(start, using=using)
    return task.AsyncResult(task_id)


def emit_in_django(name: str, payload: Any, *, using: str | None, **details: Any) -> EventReceipt:
    """Emit in the current transaction of the Django database that is the durable one."""
    app = the_app()
    store = runtime_of(app).store
    connection = _current(store, using)
    if connection is None and using is not None:
        connection = django_db().connections[using]  # which will be refused, with the reason
    if connection is None:
        connections = django_db().connections
        named = ", ".join(f"{alias}: {url_of(connections[alias]).render_as_string()}" for alias in connections)
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
        django_db().transaction.on_commit(partial(emit_by, app, name, payload, **details), using=using)
