"""What differs between the databases, all of it.

Connections are always in the driver's autocommit mode: a statement by itself is a transaction, and a
transaction of several is bracketed by hand (:meth:`Dialect.begin`). So the cost of each operation is
what is written here and nothing that a driver adds.
"""

from __future__ import annotations

import os
import socket
import time
import weakref
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Engine,
    Table,
    create_engine,
    event,
    func,
    literal_column,
    true,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import NullPool, QueuePool, StaticPool

from ..errors import ConfigurationError

__all__ = ["Dialect", "cancel_on_server", "dialect_of", "make_engine", "skips_locked", "socket_of"]

_CONNECT_WITHIN = 10
"""Seconds for a server to take a connection, where the URL does not say."""
_CANCEL_WITHIN = 5.0
_SILENT_FOR = 30
"""Seconds after which a peer that acknowledges nothing is gone, and a connection without traffic is asked."""


@dataclass(frozen=True)
class Dialect:
    """One kind of database."""

    name: str
    begin: str
    clock: str
    update_returning: bool
    """UPDATE gives back rows."""
    writes_in_cte: bool
    """An UPDATE can stand in a WITH: a fenced write, lease and all, is one statement."""
    transaction_isolation: str
    one_writer: bool = False
    """A writing transaction keeps all other writers out until it ends."""
    advisory_locks: bool = False
    """There are locks without rows, held until the transaction ends, and fair to who asked first."""
    hurry: tuple[str, str] | None = None
    """Statements between which a commit does not wait for the disk. What is committed after them lasts with all that
    was before it."""

    def now(self) -> ColumnElement[int]:
        """The database's clock: it alone decides what is due and whose lease has ended."""
        return literal_column(self.clock, BigInteger())

    def instant(self) -> ColumnElement[int]:
        """The same as one value, which an index can be searched by. PostgreSQL asks a clock that goes on again for each
        row, and would read the times of all runs that sleep to find none that is due."""
        return literal_column(f"(SELECT {self.clock})", BigInteger()) if self.name == "postgresql" else self.now()

    def not_waiting_for_disk(self) -> list[ColumnElement[Any]]:
        """The same as a column of a statement that gives back rows, where it can be."""
        if self.name != "postgresql":
            return []
        return [func.set_config("synchronous_commit", "off", true()).label("durability")]

    def insert(self, table: Table) -> Any:
        """An INSERT that can say what becomes of a row which is there already. SQLAlchemy's part for a database is
        imported when it is used."""
        return import_module(f"sqlalchemy.dialects.{self.name}").insert(table)


SQLITE = Dialect(
    name="sqlite",
    begin="BEGIN IMMEDIATE",
    clock="CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)",
    update_returning=True,
    writes_in_cte=False,
    transaction_isolation="SERIALIZABLE",
    one_writer=True,
    hurry=("PRAGMA synchronous = NORMAL", "PRAGMA synchronous = FULL"),
)
POSTGRESQL = Dialect(
    name="postgresql",
    begin="BEGIN ISOLATION LEVEL READ COMMITTED",  # whatever the server's default: a lock waited for shows what it hid
    clock="(extract(epoch from clock_timestamp()) * 1000000)::bigint",
    update_returning=True,
    writes_in_cte=True,
    transaction_isolation="READ COMMITTED",
    advisory_locks=True,
)
MYSQL = Dialect(
    name="mysql",
    begin="START TRANSACTION",
    # Not by way of the local time, of which an hour comes twice where daylight saving time ends.
    clock="TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
    update_returning=False,
    writes_in_cte=False,
    transaction_isolation="READ COMMITTED",
)
_DIALECTS = {"sqlite": SQLITE, "postgresql": POSTGRESQL, "mysql": MYSQL, "mariadb": MYSQL}


def dialect_of(engine: Engine) -> Dialect:
    return _DIALECTS[engine.dialect.name]


def make_engine(url: str | URL, *, pooled: bool = True) -> Engine:
    """An engine for the durable database, safe to inherit over a fork."""
    try:
        parsed = make_url(url)
        kind = parsed.get_backend_name()
        if kind not in _DIALECTS:
            raise ConfigurationError(
                f"durable_database_url names the database {kind!r}; sqlite, postgresql, mysql and mariadb are supported"
            )
        engine = create_engine(parsed, **_options(parsed, kind, pooled))
    except (ArgumentError, NoSuchModuleError) as error:
        raise ConfigurationError(
            f"durable_database_url is no database URL that SQLAlchemy understands: {error}. "
            'An example: "postgresql+psycopg://user:password@host/name"'
        ) from error
    except ImportError as error:
        extra = "postgresql" if kind == "postgresql" else "mysql"
        raise ConfigurationError(
            f"durable_database_url needs a driver that is not installed ({error}): "
            f'pip install "celery-durable[{extra}]"'
        ) from error
    if kind == "sqlite":
        _tune_sqlite(engine)
    else:
        _notice_dead_peers(engine)
    _forget_after_fork(engine)
    return engine


def _options(url: URL, kind: str, pooled: bool) -> dict[str, Any]:
    # The row count of an INSERT is how a fence answers: SQLAlchemy drops it unless told otherwise.
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT", "execution_options": {"preserve_rowcount": True}}
    if kind == "sqlite":
        options["connect_args"] = {"timeout": 30, "check_same_thread": False}
        if not url.database or url.database == ":memory:":
            options["poolclass"] = StaticPool
            return options
        options["poolclass"] = QueuePool  # also for one in memory that has a name, as Django's tests have
    else:
        # Whoever gives a connection back has ended its transaction: no server is asked to make sure of that.
        options["pool_reset_on_return"] = None
        bounds = dict.fromkeys(_BOUNDS.get(url.get_driver_name(), ()), _CONNECT_WITHIN)
        options["connect_args"] = {name: bound for name, bound in bounds.items() if name not in url.query}
        if url.get_driver_name() == "psycopg" and "prepare_threshold" in url.query:
            options["connect_args"]["prepare_threshold"] = _prepare_threshold(url.query["prepare_threshold"])
    if not pooled:
        return {**options, "poolclass": NullPool}
    # A pass holds one connection while it runs, so there are as many as passes at once.
    return {**options, "pool_size": 5, "max_overflow": -1}


_BOUNDS = {
    "psycopg": ("connect_timeout",),
    "psycopg2": ("connect_timeout",),
    "pymysql": ("connect_timeout", "read_timeout"),  # the first alone is not for what the server says first
    "mysqldb": ("connect_timeout",),
}
"""What bounds connecting, by drivers. How long a statement may take is not for them to say: see ``watch.py``."""


def _prepare_threshold(given: object) -> int | None:
    """Psycopg takes a number, and a URL has text: no pooler of transactions could be used that knows nothing of
    prepared statements."""
    text = str(given).lower()
    if text != "none" and not text.isdecimal():
        raise ConfigurationError(f"durable_database_url has prepare_threshold={given}: a number or none is expected")
    return None if text == "none" else int(text)


def socket_of(driver: Any) -> socket.socket | None:
    """Another handle of the socket that a driver's connection has; ``None`` where it can't be told."""
    held = getattr(driver, "_sock", driver)  # PyMySQL has no method for it
    if not hasattr(held, "fileno"):
        return None
    return socket.socket(fileno=os.dup(held.fileno()))


def skips_locked(connection: Connection) -> bool:
    """Whether this MySQL or MariaDB can pass over rows that others have locked."""
    dialect: Any = connection.dialect
    since = (10, 6) if dialect.is_mariadb else (8, 0, 1)
    return bool(dialect.server_version_info >= since)


def cancel_on_server(engine: Engine, driver: Any) -> None:
    """Have the server end the statement that a connection waits for."""
    if hasattr(driver, "cancel_safe"):  # psycopg since 3.2
        driver.cancel_safe(timeout=_CANCEL_WITHIN)
    elif hasattr(driver, "cancel"):
        driver.cancel()
    elif hasattr(driver, "thread_id"):
        number = int(driver.thread_id())
        killer = engine.raw_connection()
        try:
            killer.cursor().execute(f"KILL QUERY {number}")
        finally:
            killer.close()


def _notice_dead_peers(engine: Engine) -> None:
    """Where packets vanish, a kernel goes on sending for a quarter of an hour, and asks after two hours of silence."""

    @event.listens_for(engine, "connect")
    def notice(connection: Any, _record: Any) -> None:
        if hasattr(connection, "_read_timeout") and "read_timeout" not in engine.url.query:
            connection._read_timeout = None  # PyMySQL: the server has taken the connection
        opened = socket_of(connection)
        if opened is None:
            return
        with opened:
            if opened.family in (socket.AF_INET, socket.AF_INET6):
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for name, value in _TCP_BOUNDS.items():
                    if hasattr(socket, name):  # not on every system
                        opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


_TCP_BOUNDS = {
    "TCP_KEEPIDLE": _SILENT_FOR,
    "TCP_KEEPINTVL": _SILENT_FOR // 3,
    "TCP_KEEPCNT": 3,
    "TCP_USER_TIMEOUT": _SILENT_FOR * 1000,
}


def _tune_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def tune(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA busy_timeout = 30000")
        _use_wal(cursor)
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        # SQLAlchemy's own transactions (step.transaction): take the write lock at the beginning, as
        # a read that turns into a write later fails at once when another process wrote meanwhile.
        if connection.get_execution_options().get("isolation_level") == SQLITE.transaction_isolation:
            connection.exec_driver_sql(SQLITE.begin)


def _use_wal(cursor: Any) -> None:
    """The busy timeout does not hold for this: while another process does the same, SQLite refuses at once."""
    from sqlite3 import OperationalError  # whoever gets here has this driver

    limit = time.monotonic() + 30
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > limit:
                raise
            time.sleep(0.02)


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def _forget_after_fork(engine: Engine) -> None:
    _engines.add(engine)


def _dispose_in_child() -> None:
    # The parent goes on using the sockets: the child must drop, not close them.
    for engine in list(_engines):
        engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_dispose_in_child)
