"""The transaction of ``step.transaction``: what its function writes and the step's record commit together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, Engine, RootTransaction
from sqlalchemy.exc import DBAPIError

from .dialects import dialect_of
from .link import is_contended

__all__ = ["Broken", "Execution", "Give", "SessionTransactions", "Transaction", "Transactions"]

T = TypeVar("T")
Give = Callable[[Callable[[Any], Any]], Any]


class Broken(Exception):
    """The database has failed a transaction, or what its function did in it."""

    def __init__(self, error: Exception, *, is_lost: bool, is_contended: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.is_lost = is_lost
        """With its connection: nobody but the database knows whether a commit took place."""
        self.is_contended = is_contended
        """It was taken back so that others could go on."""


class Execution(Protocol):
    """Executes our statements, in whatever transaction that is."""

    def execute(self, statement: Any, values: Any, /) -> Any:
        """Do a statement with its values; with a list of them, once for each."""


class Transaction(Execution, Protocol):
    """An open transaction on the durable database."""

    def do(self, work: Callable[[Give], T], keep: Callable[[T], None]) -> None:
        """Call ``work``, and ``keep`` with what it returned. ``work`` is handed a function that calls one, on whatever
        thread, with what it may write by."""

    def rollback(self) -> None:
        """Take back all that was done in it."""


class Transactions(Protocol):
    """Who opens them."""

    def begin(self, engine: Engine) -> AbstractContextManager[Transaction]:
        """Open one, to be committed at the end unless something is raised in it. ``Broken`` is what it raises where
        the database is the reason."""


class SessionTransactions:
    """SQLAlchemy's: the function is given a session."""

    @contextmanager
    def begin(self, engine: Engine) -> Iterator[Transaction]:
        engine = engine.execution_options(isolation_level=dialect_of(engine).transaction_isolation)
        is_lost = True
        try:
            with engine.connect() as connection:
                try:
                    with connection.begin() as transaction:
                        yield _SessionTransaction(connection, transaction)
                except DBAPIError:
                    is_lost = connection.invalidated
                    raise
        except DBAPIError as error:
            raise Broken(error, is_lost=is_lost, is_contended=is_contended(error)) from error


class _SessionTransaction:
    def __init__(self, connection: Connection, transaction: RootTransaction) -> None:
        self._connection = connection
        self._transaction = transaction

    def do(self, work: Callable[[Give], T], keep: Callable[[T], None]) -> None:
        from sqlalchemy.orm import Session  # most of SQLAlchemy to import, and nothing else here needs it

        # In a savepoint, so that a commit or rollback of the function's own leaves the transaction whole.
        with Session(bind=self._connection, join_transaction_mode="create_savepoint") as session:
            value = work(lambda function: function(session))
            session.commit()
            keep(value)

    def execute(self, statement: Any, values: Any, /) -> Any:
        return self._connection.execute(statement, values)

    def rollback(self) -> None:
        self._transaction.rollback()
