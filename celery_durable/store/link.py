"""A connection that is held over a pass and outlives a database that blinks.

Every operation of the store is written so that doing it twice is the same as doing it once (it can tell
its own earlier try from somebody else's write). So when the connection breaks, even at a commit whose
outcome nobody knows, the operation is simply done again on a new connection, until a limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError, ProgrammingError

from ..errors import ConfigurationError, DurableError
from .dialects import Dialect

__all__ = ["Link", "explain", "is_transient"]

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


class Link:
    """One held connection. Use as a context manager; opened at the first use."""

    def __init__(self, engine: Engine, dialect: Dialect) -> None:
        self._engine = engine
        self._dialect = dialect
        self._connection: Connection | None = None

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the connection back; the next use takes one again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except Exception:  # it is broken, and what was to be written is written: nobody has to know
                _discard(connection)

    def run(self, operation: Callable[[Connection], T], patience: float = 0.0) -> T:
        """Do an operation, again and again for ``patience`` seconds while the database is away."""
        limit = time.monotonic() + patience
        pause = _FIRST_PAUSE
        attempt = 0
        while True:
            attempt += 1
            try:
                if self._connection is None:
                    self._connection = self._engine.connect()
                return operation(self._connection)
            except DBAPIError as error:
                self._drop()
                if not is_transient(error):
                    raise explain(error, self._engine) from error
                # A pooled connection may have died long ago: one try on a new one costs no patience.
                if attempt > 1 and time.monotonic() + pause > limit:
                    raise
            except (DurableError, TypeError, ValueError):
                raise  # said on purpose, between two statements: the connection is as it was
            except BaseException:
                self._drop()
                raise
            if attempt > 1:
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            _discard(connection)

    @contextmanager
    def atomic(self, connection: Connection) -> Iterator[None]:
        """Several statements as one transaction, on a connection in autocommit mode."""
        connection.exec_driver_sql(self._dialect.begin)
        try:
            yield
        except BaseException as error:
            # After an error of the connection it is dropped, and the transaction with it.
            if not isinstance(error, DBAPIError) or isinstance(error, IntegrityError):
                connection.exec_driver_sql("ROLLBACK")
            raise
        connection.exec_driver_sql("COMMIT")


def _discard(connection: Connection) -> None:
    """Let the pool forget it. One that broke while it was being closed is closed."""
    if not connection.closed:
        connection.invalidate()
        connection.close()


_MISSING = ("no such table", "no such column", "doesn't exist", "unknown column", "does not exist", "has no column")


def is_transient(error: DBAPIError) -> bool:
    """Whether doing the same again may work: the database is away, busy, or chose us in a deadlock."""
    if error.connection_invalidated:
        return True
    if not isinstance(error, (OperationalError, InterfaceError)):
        return False
    message = str(error.orig).lower()
    return not any(sign in message for sign in _MISSING)


def explain(error: DBAPIError, engine: Engine) -> Exception:
    """The error that a user should see for one of the database."""
    message = str(error.orig).lower()
    if isinstance(error, (OperationalError, ProgrammingError)) and any(sign in message for sign in _MISSING):
        where = engine.url.render_as_string(hide_password=True)
        said = str(error.orig).partition("\n")[0]
        return ConfigurationError(
            f"the database {where} lacks the durable tables, or has old ones ({said}). Make them with:  "
            "celery -A proj durable migrate  (or Durable(app).migrate() in a script)"
        )
    return error
