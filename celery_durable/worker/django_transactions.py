"""``step.transaction`` over Django's ORM: the function's writes and the step's record commit in one Django transaction.

So it is where our app is among INSTALLED_APPS and the durable database is one of DATABASES. The function is given
Django's connection in the place of a session.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Engine, literal, update

from ..errors import ConfigurationError
from ..store.link import was_taken_back
from ..store.transacting import Broken, Execution, Give, SessionTransactions, Transaction
from .django_databases import django_alias, django_db, execute_in_django, is_installed, url_of
from .same_database import same_database

if TYPE_CHECKING:
    from ..store.store import Store

__all__ = ["follow_django"]

T = TypeVar("T")


def follow_django(store: Store, url: str) -> None:
    """Let the transactions of a store be Django's, where the project and the durable database are of that kind.

    ``url`` says where the rows of the user's are; a test has its records elsewhere.
    """
    alias = django_alias(url) if is_installed() else None
    store.transactions = SessionTransactions() if alias is None else _DjangoTransactions(store, alias)


class _DjangoTransactions:
    def __init__(self, store: Store, alias: str) -> None:
        self._store = store
        self._alias = alias
        self._apart = SessionTransactions()

    @contextmanager
    def begin(self, engine: Engine) -> Iterator[Transaction]:
        connection = django_db().connections[self._alias]
        opened_here = connection.connection is None
        try:
            if same_database(engine.url, url_of(connection)):
                with self._together(connection) as transaction:
                    yield transaction
            else:  # the records are those of a test, in memory
                with self._apart.begin(engine) as records, django_db().transaction.atomic(using=self._alias):
                    yield _DjangoTransaction(connection, records)
        except django_db().Error as error:
            contended = was_taken_back(error.__cause__)
            raise Broken(error, is_lost=not contended and _is_lost(connection), is_contended=contended) from error
        finally:
            if _is_given_up(connection):
                del django_db().connections[self._alias]
            elif opened_here and threading.current_thread() is not threading.main_thread():
                connection.close()  # nobody else will: the thread is that of a branch, and ends

    @contextmanager
    def _together(self, connection: Any) -> Iterator[Transaction]:
        if connection.in_atomic_block:
            raise ConfigurationError(
                f"step.transaction commits by itself, and this process is in transaction.atomic of {self._alias!r} "
                "already. In a test, use the fixture durable_env or a TransactionTestCase; elsewhere, call the task "
                "outside the transaction."
            )
        with django_db().transaction.atomic(using=self._alias):
            records = _Records(self._store, connection)
            if self._store.dialect.one_writer:
                # A read that turns into a write later would fail at once if another process wrote meanwhile.
                run = self._store.tables.run
                records.execute(update(run).where(run.c.id == literal("")).values(token=run.c.token), {})
            yield _DjangoTransaction(connection, records)


class _Records:
    """Our statements on Django's connection."""

    def __init__(self, store: Store, connection: Any) -> None:
        self._store = store
        self._connection = connection

    def execute(self, statement: Any, values: Any, /) -> Any:
        return execute_in_django(self._store, self._connection, statement, values)


class _DjangoTransaction:
    def __init__(self, connection: Any, records: Execution) -> None:
        self._connection = connection
        self._records = records
        self._lent = False

    def do(self, work: Callable[[Give], T], keep: Callable[[T], None]) -> None:
        with django_db().transaction.atomic(using=self._connection.alias):
            try:
                value = work(self._give)
            except BaseException:
                if self._lent:
                    self._take_back()
                raise
        keep(value)

    def _give(self, function: Callable[[Any], Any]) -> Any:
        """Call a function with the connection, and with the ORM on it: also on another thread, where Django would
        open another connection."""
        connections, alias = django_db().connections, self._connection.alias
        if connections[alias] is self._connection:
            return function(self._connection)
        connections[alias] = self._connection
        self._connection.inc_thread_sharing()
        self._lent = True
        try:
            return function(self._connection)
        finally:
            self._lent = False
            self._connection.dec_thread_sharing()
            del connections[alias]

    def _take_back(self) -> None:
        """The time of a function on another thread is up, and it goes on: what it still does must come to nothing."""

        def connect() -> None:
            raise django_db().InterfaceError("the step that this belongs to was given up")

        self._connection.connect = connect
        self._connection.close()

    def execute(self, statement: Any, values: Any, /) -> Any:
        return self._records.execute(statement, values)

    def rollback(self) -> None:
        django_db().transaction.set_rollback(True, using=self._connection.alias)


def _is_lost(connection: Any) -> bool:
    return connection.connection is None or not connection.is_usable()


def _is_given_up(connection: Any) -> bool:
    return "connect" in vars(connection)
