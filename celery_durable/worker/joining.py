"""Writing to the durable database in a transaction of the caller's, and acting once that has committed.

A start or an event that is written this way is there if and only if the caller's own rows are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import Connection, event, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from ..errors import ConfigurationError
from ..store.link import explain
from ..store.store import Store
from .same_database import is_ours, same_database

__all__ = ["Joined", "join"]

_ACTIONS = "celery_durable.after_commit"
_MOMENT = 0.05


class Joined(Protocol):
    """A transaction of the caller's."""

    is_elsewhere: bool
    """Whether it is on the app's database while a test keeps the records in memory: what would be written in it is then
    recorded after it has committed."""

    def execute(self, statement: Any, values: Any) -> Any:
        """Do a statement of ours in it."""

    def after_commit(self, action: Callable[[], object]) -> None:
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
        self.is_elsewhere = store.stands_in and connection.engine is not store.engine
        if not self.is_elsewhere:
            _check(store, connection)
        self._connection = connection

    def execute(self, statement: Any, values: Any) -> Any:
        try:
            return self._connection.execute(statement, values, execution_options={"preserve_rowcount": True})
        except DBAPIError as error:
            raise explain(error, self._connection.engine) from error

    def after_commit(self, action: Callable[[], object]) -> None:
        """SQLAlchemy tells of a connection's commit only before it is done: a moment later, then.

        Where that is too early the action finds nothing, and the sweeper does it.
        """
        if self.is_elsewhere:
            self._connection.execute(select(1))  # nothing was written in it that would have begun a transaction
        transaction = self._connection.get_transaction()

        def committing(connection: Connection) -> None:
            if connection.get_transaction() is not transaction:
                return
            if self.is_elsewhere:
                action()  # a test has one thread
            else:
                threading.Timer(_MOMENT, action).start()

        event.listen(self._connection, "commit", committing, once=True)


class JoinedSession(JoinedConnection):
    """The transaction of a SQLAlchemy session."""

    def __init__(self, store: Store, session: Session) -> None:
        super().__init__(store, session.connection())
        self._session = session

    def after_commit(self, action: Callable[[], object]) -> None:
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

    waiting: list[Callable[[], object]] = field(default_factory=list)
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
