"""The moments in which something is committed, and a fault at one of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection, Engine, event

Fault = Callable[[Connection], object]


class Moments:
    """Counts the commits of an engine, and lets a fault happen right before it asks for one of them.

    A statement that writes is a commit by itself where the connection is in autocommit mode; else the COMMIT is.
    """

    def __init__(self, engine: Engine, number: int = 0, fault: Fault | None = None) -> None:
        self.count = 0
        self._engine = engine
        self._number = number
        self._fault = fault
        self._open: set[int] = set()

    def __enter__(self) -> Moments:
        event.listen(self._engine, "before_cursor_execute", self._before)
        event.listen(self._engine, "commit", self._commit)
        return self

    def __exit__(self, *exc: object) -> None:
        event.remove(self._engine, "before_cursor_execute", self._before)
        event.remove(self._engine, "commit", self._commit)

    @property
    def was_hit(self) -> bool:
        return self.count >= self._number

    def _before(self, connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
        key, word = id(connection.connection.dbapi_connection), statement.split()[0].upper()
        if connection.get_execution_options().get("isolation_level", "AUTOCOMMIT") != "AUTOCOMMIT":
            return  # of step.transaction, which SQLAlchemy commits
        if word in ("BEGIN", "START"):
            self._open.add(key)
        elif word in ("COMMIT", "ROLLBACK"):
            self._open.discard(key)
            if word == "COMMIT":
                self._commit(connection)
        elif key not in self._open and word in ("INSERT", "UPDATE", "DELETE", "WITH"):
            self._commit(connection)

    def _commit(self, connection: Connection) -> None:
        self.count += 1
        if self.count == self._number and self._fault is not None:
            self._fault(connection)
