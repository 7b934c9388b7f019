"""An event that finds one wait alone, answered by whoever emits it, without waiting for anybody.

Its run goes on a message sooner than by the dispatch. That comes all the same, so nothing has to be complete here: no
gate is closed, and where a run's lock is somebody's, where a run does not sleep, where there is more than one wait or
an event that comes first, all is left to the dispatch. What is written is written as there, behind the lock of the run.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Executable,
    Select,
    and_,
    bindparam,
    case,
    delete,
    exists,
    insert,
    literal,
    or_,
    select,
    update,
)

from ..dialects import Dialect
from ..tables import Tables
from .base import StatementGroup
from .events import OF_EVENT

__all__ = ["LoneStatements"]


class LoneStatements(StatementGroup):
    """The statements of an emit that answers the wait for its event."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        super().__init__(tables, dialect)
        self._lone_waits()
        self._answer_lone()

    def _lone_waits(self) -> None:
        """An event, the first two of the waits that it might answer, and whether others come before it there."""
        event, wait = self._tables.event, self._tables.wait
        before = event.alias("before")
        earlier: Select[Any] = select(literal(1)).where(
            before.c.name == bindparam("at_name"), before.c.due_at.is_not(None), before.c.seq < event.c.seq
        )
        of_wait = (wait.c.run_id, wait.c.step_id, wait.c.match)
        look = (
            select(*(event.c[name] for name in OF_EVENT), *of_wait)
            .where(event.c.id == bindparam("at_id"), wait.c.since <= event.c.emitted_at)
            .limit(2)
        )
        of_any = exists(earlier.correlate(event))
        of_key = exists(earlier.where(before.c.key == bindparam("at_key")).correlate(event))
        keyless = and_(wait.c.name == bindparam("at_name"), wait.c.key.is_(None))
        # The name twice: SQLite would read all waits of that name otherwise.
        keyed = and_(wait.c.name == bindparam("at_name"), wait.c.key == bindparam("at_key"))
        self.lone_by_name: Executable = look.where(keyless).add_columns(of_any.label("is_late"))
        self.lone_by_key: Executable = look.where(or_(keyed, keyless)).add_columns(
            case((wait.c.key.is_(None), of_any), else_=of_key).label("is_late")
        )

    def _answer_lone(self) -> None:
        run, step, wait, taken = self._tables.run, self._tables.step, self._tables.wait, self._tables.taken
        run_input, now = self._tables.input, self._dialect.now()
        asleep = select(run.c.id).where(run.c.id == bindparam("at_run"), run.c.status == "suspended", self._is_let_go())
        self.lock_asleep: Executable = asleep if self._dialect.one_writer else asleep.with_for_update(skip_locked=True)
        self.wake_sent: Executable = self._waking(run.c.id.in_(bindparam("ids", expanding=True)), sends=1)
        self.answer_lone: Executable | None = None
        if not self._dialect.writes_in_cte:
            return
        event, locked = bindparam("of_event", type_=BigInteger), asleep.with_for_update(skip_locked=True).cte("locked")
        had = exists(select(literal(1)).where(taken.c.run_id == wait.c.run_id, taken.c.event == event))
        # Who has answered it since this statement's snapshot was taken has deleted it: then nothing is done here.
        opened = (
            delete(wait)
            .where(wait.c.run_id == locked.c.id, wait.c.step_id == bindparam("at_step"), ~had)
            .returning(wait.c.run_id, wait.c.step_id)
            .cte("opened")
        )
        took = insert(taken).from_select(
            ["run_id", "event", "step_id", "taken_at"], select(opened.c.run_id, event, opened.c.step_id, now)
        )
        of_step = and_(step.c.run_id == opened.c.run_id, step.c.id == opened.c.step_id, step.c.status == "waiting")
        result = bindparam("given_result", type_=step.c.result.type)
        answered = update(step).where(of_step).values(status="completed", result=result, finished_at=now)
        woken = self._waking(run.c.id == opened.c.run_id, sends=1).returning(*self._of_due()).cte("woken")
        self.answer_lone = (
            select(woken, run_input.c.arguments, run_input.c.message)
            .join_from(woken, run_input, run_input.c.run_id == woken.c.id)
            .add_cte(took.cte("took"), answered.cte("answered"))
        )
