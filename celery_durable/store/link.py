"""A connection that is held over a pass and outlives a database that blinks.

Every operation of the store is written so that doing it twice is the same as doing it once (it can tell
its own earlier try from somebody else's write). So when the connection breaks, even at a commit whose
outcome nobody knows, the operation is simply done again on a new connection, until a limit. One that the
database has taken back for others' sake, in a deadlock say, is done again at once. One that gets no answer is
given up (see ``watch.py``), and counts as a connection that broke.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    InternalError,
    OperationalError,
    ProgrammingError,
)

from ..errors import ConfigurationError, DurableError
from .dialects import Dialect
from .prepared import do_text, take_back
from .watch import Watched, watch

__all__ = [
    "CONTENDED_TRIES",
    "Link",
    "explain",
    "is_contended",
    "is_stale",
    "is_transient",
    "pause_for_others",
    "was_taken_back",
]

T = TypeVar("T")

CONTENDED_TRIES = 10
"""How often something is done that the database takes back for others' sake."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


class Link:
    """One held connection. Use as a context manager; opened at the first use."""

    def __init__(self, engine: Engine, dialect: Dialect, answer_within: float | None = None) -> None:
        self._engine = engine
        self._dialect = dialect
        self._answer_within = answer_within
        self._connection: Connection | None = None
        self._watched: Watched | None = None
        self.patience = 0.0
        """Seconds for which every operation has patience: while a pass holds the link."""

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the connection back; the next use takes one again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                with self._watching(connection):  # a driver may send a ROLLBACK
                    connection.close()
            except Exception:  # it is broken, and what was to be written is written: nobody has to know
                _discard(connection)
        self._watched = None

    def run(self, operation: Callable[[Connection], T], patience: float = 0.0) -> T:
        """Do an operation, again and again for ``patience`` seconds while the database is away."""
        limit = time.monotonic() + max(patience, self.patience)
        pause = _FIRST_PAUSE
        attempt = contended = 0
        while True:
            try:
                if self._connection is None:
                    self._connection = self._engine.connect()
                with self._watching(self._connection):
                    return operation(self._connection)
            except DBAPIError as error:
                self._drop()
                if is_contended(error) and contended < CONTENDED_TRIES - 1:
                    contended += 1
                    pause_for_others(contended)
                    continue
                if not is_transient(error):
                    raise explain(error, self._engine) from error
                attempt += 1
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

    def _watching(self, connection: Connection) -> AbstractContextManager[None]:
        """Give the connection up where there is no answer on it in time."""
        if self._answer_within is None:
            return nullcontext()
        if self._watched is None or self._watched.is_overdue:
            self._watched = Watched(connection, self._answer_within)
        return self._watched

    @contextmanager
    def lingering(self) -> Iterator[None]:
        """What the operation does meanwhile takes as long as there are rows: wait for that."""
        watched = self._watched
        if watched is None:
            yield
            return
        watched.until = math.inf
        try:
            yield
        finally:
            watched.until = time.monotonic() + watched.seconds
            watch.begin(watched)

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        self._watched = None
        if connection is not None:
            _discard(connection)

    @contextmanager
    def hurrying(self, connection: Connection) -> Iterator[None]:
        """What is written meanwhile may be lost if the database's machine is, until something else is written."""
        if self._dialect.hurry is None:
            yield
            return
        begin, end = self._dialect.hurry
        do_text(connection, begin)
        try:
            yield
        except DBAPIError:
            raise  # the connection is dropped
        except BaseException:
            do_text(connection, end)
            raise
        do_text(connection, end)

    @contextmanager
    def atomic(self, connection: Connection) -> Iterator[None]:
        """Several statements as one transaction, on a connection in autocommit mode."""
        do_text(connection, self._dialect.begin)
        try:
            yield
        except BaseException as error:
            # After an error of the connection it is dropped, and the transaction with it.
            if not isinstance(error, DBAPIError) or isinstance(error, IntegrityError):
                take_back(connection)
            raise
        do_text(connection, "COMMIT")


def _discard(connection: Connection) -> None:
    """Let the pool forget it. One that broke while it was being closed is closed."""
    if not connection.closed:
        connection.invalidate()
        connection.close()


_MISSING = ("no such table", "no such column", "doesn't exist", "unknown column", "does not exist", "has no column")


_TAKEN_BACK = {
    "40001",  # a serialization failure
    "40P01",  # a deadlock
    "26000",  # a prepared statement that the server was told to forget: a new connection has none
    1213,  # a deadlock, on MySQL and MariaDB
    1020,  # a row that has changed since it was read first, where MariaDB isolates by snapshots
}


def is_contended(error: DBAPIError) -> bool:
    """Whether the database has taken something back so that others could go on."""
    return was_taken_back(error.orig)


def is_stale(error: DBAPIError) -> bool:
    """Whether a statement met rows that others had changed since its transaction began, where the isolation of
    transactions does not let it go on with what they are now."""
    return _code_of(error.orig) == "40001"


def was_taken_back(original: BaseException | None) -> bool:
    """The same of a driver's own error."""
    return _code_of(original) in _TAKEN_BACK


def pause_for_others(times: int) -> None:
    """Let those go on for whose sake it was taken back; longer each time, and not in step with others who do so."""
    time.sleep(random.uniform(0, min(0.005 * 2**times, 1.0)))


def _code_of(original: BaseException | None) -> str | int | None:
    """The server's code for an error, where the driver tells one."""
    for name in ("sqlstate", "pgcode"):
        if isinstance(getattr(original, name, None), str):
            return str(getattr(original, name))
    code = original.args[0] if original is not None and original.args else None
    return code if isinstance(code, int) else None


_READ_ONLY = "25006"
"""The server is a standby now, as after a failover; on a new connection it may be the primary."""


def is_transient(error: DBAPIError) -> bool:
    """Whether doing the same again may work: the database is away, busy, or chose us in a deadlock."""
    if error.connection_invalidated or (isinstance(error, InternalError) and _code_of(error.orig) == _READ_ONLY):
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
