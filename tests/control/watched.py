"""A store with the test's clock, that tells before each write of a pass; and looking at what it holds."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from celery_durable.core.codec import encode
from tests.engine.watched import WatchedStore, watched

from .operating import OF_RUNS

__all__ = ["Looking", "Watched"]

Watched = watched("record", "change", "suspend", "finish", "start_over", "end_wait", "take_event", "record_together")


class Looking:
    """Reads the tables."""

    store: WatchedStore

    def row(self, run_id: str) -> Any:
        of = self.store.tables.run
        with self.store.engine.connect() as connection:
            return connection.execute(select(of).where(of.c.id == run_id)).one()

    def steps(self, run_id: str) -> dict[str, Any]:
        of = self.store.tables.step
        with self.store.engine.connect() as connection:
            return {row.id: row for row in connection.execute(select(of).where(of.c.run_id == run_id))}

    def has_row(self, run_id: str, name: str) -> bool:
        return name in self.steps(run_id)

    def tables(self, but: tuple[str, ...] = ()) -> dict[str, list[Any]]:
        with self.store.engine.connect() as connection:
            return {
                name: list(connection.execute(getattr(self.store.tables, name).select()))
                for name in ("run", *OF_RUNS)
                if name not in but
            }

    @staticmethod
    def arguments(tables: dict[str, list[Any]], run_id: str) -> str:
        return next((row.arguments for row in tables["input"] if row.run_id == run_id), encode([[0], {}]))
