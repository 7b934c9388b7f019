"""An event that finds one wait alone, answered by whoever emits it, without waiting for anybody.

Its run goes on a message sooner than by the dispatch. That comes all the same, so nothing has to be complete here: no
gate is closed, and where a run's lock is somebody's, where a run does not sleep, where there is more than one wait or
an event that comes first, all is left to the dispatch. What is written is written as there, behind the lock of the run.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Executable,
    FromClause,
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
        of_event = [event.c[name] for name in OF_EVENT]
        at_event = event.c.id == bindparam("at_id")
        self.lone_by_name: Executable = self._with_waits(event, *of_event, wait.c.match).where(at_event)
        self.lone_by_key: Executable = self._with_waits(event, *of_event, wait.c.match, by_key=True).where(at_event)
        # The same of an event that this very statement records: who emits one that nobody waits for pays nothing for
        # the look. What may not be readable here is not read: it would be an error of something that was done.
        self.emit_by_name: Executable | None = None
        self.emit_by_key: Executable | None = None
        if self._dialect.writes_in_cte:
            emitted = self._emitting().returning(event.c.seq, event.c.emitted_at).cte("emitted")
            found = (emitted.c.seq, emitted.c.emitted_at, wait.c.match.is_not(None).label("asks"))
            self.emit_by_name = self._with_waits(emitted, *found)
            self.emit_by_key = self._with_waits(emitted, *found, by_key=True)

    def _with_waits(self, emitted: FromClause, *columns: ColumnElement[Any], by_key: bool = False) -> Select[Any]:
        wait, before = self._tables.wait, self._tables.event.alias("before")
        earlier = select(literal(1)).where(
            before.c.name == bindparam("at_name"), before.c.due_at.is_not(None), before.c.seq < emitted.c.seq
        )
        wanted = keyless = and_(wait.c.name == bindparam("at_name"), wait.c.key.is_(None))
        is_late: Any = exists(earlier.correlate(emitted))
        if by_key:
            # The name twice: SQLite would read all waits of that name otherwise.
            wanted = or_(and_(wait.c.name == bindparam("at_name"), wait.c.key == bindparam("at_key")), keyless)
            of_key = exists(earlier.where(before.c.key == bindparam("at_key")).correlate(emitted))
            is_late = case((wait.c.key.is_(None), is_late), else_=of_key)
        return (
            select(wait.c.run_id, wait.c.step_id, is_late.label("is_late"), *columns)
            .join_from(emitted, wait, and_(wanted, wait.c.since <= emitted.c.emitted_at), isouter=True)
            .limit(2)
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
