"""What the groups of statements share."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sqlalchemy import Column, Table, bindparam, update
from sqlalchemy.dialects import mysql, postgresql, sqlite

from ...core.replay import Record
from ...model import FINISHED
from ..dialects import Dialect
from ..tables import Tables

__all__ = ["ENDED", "HISTORY_COLUMNS", "StatementGroup"]

ENDED = sorted(FINISHED)
HISTORY_COLUMNS = tuple(field.name for field in fields(Record))


class StatementGroup:
    """The tables and the dialect that statements are built for."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        self._tables = tables
        self._dialect = dialect

    def _insert_or_ignore(self, table: Table, *unique: Column[Any]) -> Any:
        """An INSERT that changes nothing where the key is there already (the primary one, unless told)."""
        key = list(unique or table.primary_key)
        if self._dialect.name == "postgresql":
            return postgresql.insert(table).on_conflict_do_nothing(index_elements=key)
        if self._dialect.name == "sqlite":
            return sqlite.insert(table).on_conflict_do_nothing(index_elements=key)
        # IGNORE would let a too long text through cut off: every length is checked before.
        return mysql.insert(table).prefix_with("IGNORE")

    def _fenced_run(self, **values: Any) -> Any:
        run = self._tables.run
        return (
            update(run)
            .where(run.c.id == bindparam("at_id"), run.c.token == bindparam("at_token"), run.c.status == "running")
            .values(**values)
        )

    def _suspended(self) -> dict[str, Any]:
        """What a run's row becomes when it is parked."""
        return {
            "status": "suspended",
            "token": bindparam("token"),
            "wake_at": bindparam("wake_at"),
            "due_at": bindparam("due_at"),
            "waiting_on": bindparam("waiting_on"),
            "sends": bindparam("sends"),
            "quorum": bindparam("quorum"),
            "retries": self._tables.run.c.retries + bindparam("retried"),
            "error": bindparam("error"),
        }

    def _of_due(self) -> list[Any]:
        """What is read of a run whose message is to be sent."""
        run = self._tables.run
        columns = ("id", "task", "status", "token", "due_at", "wake_at", "sends", "retries", "passes", "worker", "kind")
        return [*(run.c[name] for name in columns), self._dialect.now().label("now")]
