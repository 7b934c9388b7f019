"""Every statement that a process executes, and killing it right before one, or right after.

Between two statements of one transaction the database is in one state, whichever of the two is named: so each statement
is a boundary before it, and one that ends a transaction is a boundary after it as well.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, event

from .killing import die

__all__ = ["Boundaries", "Boundary"]

_WRITES = ("INSERT", "UPDATE", "DELETE", "WITH")
_BEGINS = ("BEGIN", "START")


class Boundary(NamedTuple):
    """Where a process is killed: at which of its statements, counted from 1."""

    when: str
    number: int


class Boundaries:
    """Counts the statements on some engines, and kills this process at one boundary.

    ``engine`` is the store's, which writes each BEGIN and COMMIT by hand; ``users`` are those of an application, whose
    transactions SQLAlchemy manages. What a driver would send as one batch is sent row by row, each a statement.
    """

    def __init__(self, engine: Engine, *users: Engine, kill_at: Boundary | None = None) -> None:
        self.found: list[Boundary] = []
        self.statements = 0
        self._engines = (engine, *users)
        self._users = users
        self._kill_at = kill_at
        self._open: set[int] = set()

    def __enter__(self) -> Boundaries:
        for engine in self._engines:
            event.listen(engine, "do_execute", self._execute)
            event.listen(engine, "do_executemany", self._execute_each)
            engine.dialect.do_commit = self._committing(engine.dialect.do_commit)  # type: ignore[method-assign]
        return self

    def __exit__(self, *exc: object) -> None:
        for engine in self._engines:
            event.remove(engine, "do_execute", self._execute)
            event.remove(engine, "do_executemany", self._execute_each)
            del engine.dialect.do_commit

    def _execute(self, cursor: Any, statement: str, parameters: Any, context: Any) -> bool:
        ends = self._ends_transaction(context, statement)
        self._reach("before")
        context.dialect.do_execute(cursor, statement, parameters, context)
        if ends:
            self._reach("after")
        return True

    def _execute_each(self, cursor: Any, statement: str, rows: Any, context: Any) -> bool:
        for row in rows:
            self._execute(cursor, statement, row, context)
        return True

    def _committing(self, commit: Any) -> Any:
        def do_commit(connection: Any) -> None:
            self._reach("before")
            commit(connection)
            self._reach("after")

        return do_commit

    def _ends_transaction(self, context: Any, statement: str) -> bool:
        """Whether something is there for others to see once this is done."""
        word = statement.split(None, 1)[0].upper()
        connection = id(context.root_connection.connection.dbapi_connection)
        if word in _BEGINS:
            self._open.add(connection)
        elif word in ("COMMIT", "ROLLBACK"):
            self._open.discard(connection)
            return word == "COMMIT"
        return connection not in self._open and not self._is_managed(context.root_connection) and word in _WRITES

    def _is_managed(self, connection: Connection) -> bool:
        """Whether SQLAlchemy commits it: the application's, and those of step.transaction."""
        level = connection.get_execution_options().get("isolation_level", "AUTOCOMMIT")
        return connection.engine in self._users or level != "AUTOCOMMIT"

    def _reach(self, when: str) -> None:
        if threading.current_thread().name == "celery-durable-keeper":  # it comes when it likes
            return
        self.statements += when == "before"
        boundary = Boundary(when, self.statements)
        self.found.append(boundary)
        if boundary == self._kill_at:
            die()
