"""Writing to the durable database in a transaction of the caller's, and acting once that has committed.

A start or an event that is written this way is there if and only if the caller's own rows are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from ..errors import ConfigurationError
from ..store.link import explain
from ..store.store import Store

__all__ = ["Joined", "is_ours", "join", "same_database"]

_ACTIONS = "celery_durable.after_commit"
_MOMENT = 0.05


class Joined(Protocol):
    """A transaction of the caller's."""

    def execute(self, statement: Any, values: Any) -> Any:
        """Do a statement of ours in it."""

    def after_commit(self, action: Callable[[], None]) -> None:
        """Do something once it has committed; never, if it does not."""


def join(store: Store, session: Any) -> Joined:
    """The transaction of a SQLAlchemy session or connection, or of a Django connection."""
    if isinstance(session, scoped_session):
        session = session()
    if isinstance(session, Session):
        return JoinedSession(store, session)
    if isinstance(session, Connection):
        return JoinedConnection(store, session)
    if hasattr(session, "settings_dict") and hasattr(session, "on_commit"):
        from .joining_django import JoinedDjango

        return JoinedDjango(store, session)
    if hasattr(session, "run_sync"):
        raise TypeError(
            f"session={session!r} is an async one: call this inside it, as in  "
            "await session.run_sync(lambda session: emit(..., session=session))"
        )
    raise TypeError(f"session={session!r}: a SQLAlchemy Session or Connection, or a Django connection, is expected")


class JoinedConnection:
    """The transaction of a SQLAlchemy connection."""

    def __init__(self, store: Store, connection: Connection) -> None:
        store.prepare()
        _check(store, connection)
        self._connection = connection

    def execute(self, statement: Any, values: Any) -> Any:
        try:
            return self._connection.execute(statement, values, execution_options={"preserve_rowcount": True})
        except DBAPIError as error:
            raise explain(error, self._connection.engine) from error

    def after_commit(self, action: Callable[[], None]) -> None:
        """SQLAlchemy tells of a connection's commit only before it is done: a moment later, then.

        Where that is too early the action finds nothing, and the sweeper does it.
        """
        transaction = self._connection.get_transaction()

        def committing(connection: Connection) -> None:
            if connection.get_transaction() is transaction:
                threading.Timer(_MOMENT, action).start()

        event.listen(self._connection, "commit", committing, once=True)


class JoinedSession(JoinedConnection):
    """The transaction of a SQLAlchemy session."""

    def __init__(self, store: Store, session: Session) -> None:
        super().__init__(store, session.connection())
        self._session = session

    def after_commit(self, action: Callable[[], None]) -> None:
        if isinstance(self._session.get_bind(), Connection):
            # In a transaction that somebody else has begun, such as that of step.transaction: what the session
            # commits is a part of it.
            super().after_commit(action)
            return
        if _ACTIONS not in self._session.info:
            self._session.info[_ACTIONS] = _Actions()
            event.listen(self._session, "after_commit", _committed)
            event.listen(self._session, "after_transaction_end", _ended)
        self._session.info[_ACTIONS].waiting.append(action)


@dataclass
class _Actions:
    """What a session has to do after its transaction."""

    waiting: list[Callable[[], None]] = field(default_factory=list)
    committed: bool = False


def _committed(session: Session) -> None:
    if not session.in_nested_transaction():  # otherwise a savepoint was released
        session.info[_ACTIONS].committed = True


def _ended(session: Session, transaction: SessionTransaction) -> None:
    """The session can be used again, so whoever hears of the event or the run may do that."""
    if transaction.parent is not None:
        return
    actions, session.info[_ACTIONS] = session.info[_ACTIONS], _Actions()
    if actions.committed:
        for action in actions.waiting:
            action()


def _check(store: Store, connection: Connection) -> None:
    """Refuse a session on another database: what is written there would never be found."""
    engine = connection.engine
    if engine is store.engine or same_database(engine.url, store.engine.url):
        return
    # Another name for it, perhaps: another host name, a pooler in front of it.
    if engine.dialect.name == store.engine.dialect.name and is_ours(
        store, engine.url, connection.begin_nested, connection.execute
    ):
        return
    raise ConfigurationError(
        f"the session is on {engine.url.render_as_string(hide_password=True)}, and the durable database is "
        f"{store.engine.url.render_as_string(hide_password=True)}: only what is written to one database commits "
        "together. Use a session on the durable database, set durable_database_url to yours, or leave session out."
    )


_known: dict[tuple[str, str], bool] = {}


def is_ours(
    store: Store, url: URL, savepoint: Callable[[], AbstractContextManager[Any]], execute: Callable[..., Any]
) -> bool:
    """Whether a connection finds the mark that this store has left in its own database."""
    pair = (str(store.engine.url), str(url))
    if pair not in _known:
        with store.link() as link:
            mark = store.identity(link)
        try:
            with savepoint():
                _known[pair] = execute(store.statements.marked, {}).scalar() == mark
        except Exception:  # it has no such table: SQLAlchemy's error, or Django's
            return False
    return _known[pair]


_LOOPBACK = {None, "", "localhost", "127.0.0.1", "::1"}
_PORTS = {"postgresql": 5432, "mysql": 3306}


def same_database(one: URL | str, other: URL | str) -> bool:
    """Whether two URLs lead to one database, by whatever drivers."""
    return _place(make_url(one)) == _place(make_url(other)) is not None


def _place(url: URL) -> tuple[Any, ...] | None:
    kind = url.get_backend_name().replace("mariadb", "mysql")
    if kind == "sqlite":
        if "cache=shared" in str(url):
            return kind, url.database  # one for this process, by its name
        if not url.database or url.database == ":memory:" or "mode=memory" in str(url):
            return None  # each engine has its own
        return kind, str(Path(url.database.removeprefix("file:")).resolve())
    host = url.host or url.query.get("host") or url.query.get("unix_socket")
    # The options of a PostgreSQL connection may name another schema in which its tables are.
    options = url.query.get("options")
    return kind, "localhost" if host in _LOOPBACK else host, url.port or _PORTS.get(kind), url.database, options
