"""Finding runs, counting them, and what there is to do: statements whose cost does not grow with the table."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Executable, Integer, ScalarSelect, Select, bindparam, func, literal, select

from ..dialects import Dialect
from ..tables import Tables
from .base import StatementGroup

__all__ = ["COUNTED_AT_MOST", "FindingStatements"]

COUNTED_AT_MOST = 10_000
"""Where something is counted that there may be any number of."""
OF_LISTING = (
    "id", "task", "status", "waiting_on", "wake_at", "worker", "passes", "retries", "recoveries", "code_version",
    "parent_id", "parent_step", "origin_id", "origin_step", "generation", "restarts", "deadline_at", "cancelling",
    "reported", "created_at", "started_at", "finished_at", "delivered_at", "result", "error",
)  # fmt: skip


class FindingStatements(StatementGroup):
    """The statements of looking around."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        super().__init__(tables, dialect)
        self._finding()
        self._working()
        self._waiting()

    def _finding(self) -> None:
        run, run_input = self._tables.run, self._tables.input
        self.listing: Select[Any] = (
            select(*(run.c[name] for name in OF_LISTING), run_input.c.arguments)
            .outerjoin(run_input, run_input.c.run_id == run.c.id)
            .where(run.c.kind.is_(None))
        )

    def _working(self) -> None:
        run, event, lease = (getattr(self._tables, name) for name in ("run", "event", "lease"))
        now = self._dialect.instant()
        parked = run.c.status.in_(("pending", "suspended"))
        leads = (lease.c.name == "sweeper", lease.c.until > now)
        # Of a run in line nobody is late: its turn has not come.
        due = (run.c.due_at <= now, parked, run.c.kind.is_(None), run.c.queued_at.is_(None))
        counted = {
            "due": self._counted(*due),
            "asleep": self._counted(run.c.due_at > now, parked, run.c.kind.is_(None)),
            "queued": self._counted(run.c.queued_at.is_not(None)),
            "undispatched": self._counted(event.c.due_at.is_not(None)),
            "due_since": select(func.min(run.c.due_at)).where(*due).scalar_subquery(),
            "event_since": select(func.min(event.c.due_at)).where(event.c.due_at <= now).scalar_subquery(),
            "sweeper": select(lease.c.holder).where(*leads).scalar_subquery(),
            "sweeper_until": select(lease.c.until).where(*leads).scalar_subquery(),
            "now": now,
        }
        self.workload: Executable = select(*(value.label(name) for name, value in counted.items()))
        self.holders: Executable = (
            select(run.c.worker, run.c.id, run.c.due_at)
            .where(run.c.status == "running", run.c.kind.is_(None))
            .order_by(run.c.created_at.desc())
            .limit(COUNTED_AT_MOST)
        )

    @staticmethod
    def _counted(*conditions: ColumnElement[bool]) -> ScalarSelect[int]:
        some = select(literal(1).label("one")).where(*conditions).limit(COUNTED_AT_MOST).subquery()
        return select(func.count()).select_from(some).scalar_subquery()

    def _waiting(self) -> None:
        """The waits that an event is looked at by. As two statements, so that each goes along an index to its limit."""
        wait = self._tables.wait
        limit = bindparam("limit", type_=Integer)
        named = select(wait.c.run_id).where(wait.c.name == bindparam("at_name")).limit(limit)
        self.waiting_without_key: Executable = named.where(wait.c.key.is_(None))
        self.waiting_with_key: Executable = named.where(wait.c.key == bindparam("at_key"))
