"""Migrations of an empty database, done again without Alembic.

Nearly every test begins with tables of its own, and most of what that takes is Alembic's: finding out what is to be
done. For an empty database that is the same each time. So the first time is real, and what it executed is executed as
it was from then on. On MySQL, where each statement waits for the disk, the tables are made as they were in the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, event

from celery_durable.store import schema

__all__ = ["by_alembic", "migrations_again"]

by_alembic = schema.upgrade
_scripts: dict[tuple[str, str], list[str]] = {}


@contextmanager
def migrations_again() -> Iterator[None]:
    """Meanwhile, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schema, "upgrade", _upgrade_again)
        yield


def _upgrade_again(connection: Connection, prefix: str, version: str = schema.HEAD) -> None:
    if version != schema.HEAD or schema.schema_state(connection, prefix) != "missing":
        by_alembic(connection, prefix, version)
        return
    kind = (connection.dialect.name, prefix)
    if kind not in _scripts:
        _scripts[kind] = _executed_by_alembic(connection, prefix)
        return
    if connection.dialect.name == "postgresql":
        driver: Any = connection.connection.driver_connection
        driver.execute(";\n".join(_scripts[kind]), prepare=False)
        return
    for statement in _scripts[kind]:
        connection.exec_driver_sql(statement)


def _executed_by_alembic(connection: Connection, prefix: str) -> list[str]:
    executed: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.lstrip().upper().startswith(("SELECT", "PRAGMA", "SHOW", "DESCRIBE")):
            executed.append(statement.replace("%%", "%"))

    event.listen(connection, "before_cursor_execute", note)
    try:
        by_alembic(connection, prefix)
    finally:
        event.remove(connection, "before_cursor_execute", note)
    return _tables_of(connection, prefix) if connection.dialect.name in ("mysql", "mariadb") else executed


def _tables_of(connection: Connection, prefix: str) -> list[str]:
    """Whatever the migrations have left: tables, and the rows that some begin with."""
    script = []
    for name in connection.exec_driver_sql("SHOW TABLES").scalars().all():
        if not name.startswith(prefix):
            continue
        script.append(connection.exec_driver_sql(f"SHOW CREATE TABLE `{name}`").all()[0][1])
        rows = connection.exec_driver_sql(f"SELECT * FROM `{name}`").all()
        if rows:
            values = ", ".join(f"({', '.join(repr(value) for value in row)})" for row in rows)
            script.append(f"INSERT INTO `{name}` VALUES {values}")
    return script
