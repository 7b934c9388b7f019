"""What the groups of statements share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Table, bindparam, update
from sqlalchemy.dialects import mysql, postgresql, sqlite

from ..dialects import Dialect
from ..tables import Tables

__all__ = ["StatementGroup"]


class StatementGroup:
    """The tables and the dialect that statements are built for."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        self._tables = tables
        self._dialect = dialect

    def _insert_or_ignore(self, table: Table) -> Any:
        """An INSERT that changes nothing where the key is there already."""
        if self._dialect.name == "postgresql":
            return postgresql.insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key))
        if self._dialect.name == "sqlite":
            return sqlite.insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key))
        # IGNORE would let a too long text through cut off: every length is checked before.
        return mysql.insert(table).prefix_with("IGNORE")

    def _fenced_run(self, **values: Any) -> Any:
        run = self._tables.run
        return (
            update(run)
            .where(run.c.id == bindparam("at_id"), run.c.token == bindparam("at_token"), run.c.status == "running")
            .values(**values)
        )
