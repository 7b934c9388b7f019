"""An event that finds one wait alone, answered by whoever emits it, without waiting for anybody.

Its run goes on a message sooner than by the dispatch. That comes all the same, so nothing has to be complete here: no
gate is closed, and where a run's lock is somebody's, where a run does not sleep, where there is more than one wait or
an event that comes first, all is left to the dispatch. What is written is written as there, behind the lock of the run.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Executable,
    FromClause,
    Select,
    Text,
    and_,
    bindparam,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    true,
    union_all,
    update,
)

from ..dialects import Dialect
from ..sealing import Sealed
from ..tables import Tables
from .base import StatementGroup, of_one
from .events import OF_EVENT

__all__ = ["LoneStatements", "iso"]


class LoneStatements(StatementGroup):
    """The statements of an emit that answers the wait for its event."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        super().__init__(tables, dialect)
        self._event = bindparam("of_event", type_=BigInteger)
        self._result = bindparam("given_result", type_=tables.step.c.result.type)
        self._lone_waits()
        self._answer_lone()
        self._answer_lone_at_once()
        self._emit_answering()

    def _lone_waits(self) -> None:
        """An event, the first two of the waits that it might answer, and whether others come before it there."""
        event = self._tables.event
        of_event = [event.c[name] for name in OF_EVENT]
        at_event = event.c.id == bindparam("at_id")
        self.lone_by_name: Executable = self._with_waits(event, *of_event).where(at_event)
        self.lone_by_key: Executable = self._with_waits(event, *of_event, by_key=True).where(at_event)

    def _with_waits(self, emitted: FromClause, *columns: ColumnElement[Any], by_key: bool = False) -> Select[Any]:
        wait, wanted = self._wanted(by_key)
        before = self._tables.event.alias("before")
        earlier = select(literal(1)).where(
            before.c.name == bindparam("at_name"), before.c.due_at.is_not(None), before.c.seq < emitted.c.seq
        )
        is_late: Any = exists(earlier.correlate(emitted))
        if by_key:
            of_key = exists(earlier.where(before.c.key == bindparam("at_key")).correlate(emitted))
            is_late = case((wait.c.key.is_(None), is_late), else_=of_key)
        return (
            select(wait.c.run_id, wait.c.step_id, is_late.label("is_late"), wait.c.match, *columns)
            .join_from(emitted, wait, and_(wanted, wait.c.since <= emitted.c.emitted_at), isouter=True)
            .limit(2)
        )

    def _wanted(self, by_key: bool) -> tuple[FromClause, ColumnElement[bool]]:
        """Where the waits of a name are found that ask for this key or for none, and by what."""
        wait = self._tables.wait
        keyless = and_(wait.c.name == bindparam("at_name"), wait.c.key.is_(None))
        if not by_key:
            return wait, keyless
        # The name twice: SQLite would read all waits of that name otherwise.
        keyed = and_(wait.c.name == bindparam("at_name"), wait.c.key == bindparam("at_key"))
        if self._dialect.name != "postgresql":
            return wait, or_(keyed, keyless)
        # So would PostgreSQL where it knows nothing of the table yet, unless these are two questions.
        return union_all(select(wait).where(keyed), select(wait).where(keyless)).subquery("wanted"), true()

    def _answer_lone(self) -> None:
        """Answer one wait behind the lock of its run, which tells what its message is made of."""
        run, wait, taken, run_input = self._tables.run, self._tables.wait, self._tables.taken, self._tables.input
        step, now, asleep = self._tables.step, self._dialect.now(), self._asleep(bindparam("at_run"))
        to_send = asleep.with_only_columns(*self._of_due(), run_input.c.arguments, run_input.c.message)
        locked = to_send.join(run_input, run_input.c.run_id == run.c.id)
        self.lock_asleep: Executable = locked if self._dialect.one_writer else locked.with_for_update(skip_locked=True)
        at_wait = and_(wait.c.run_id == bindparam("at_run"), wait.c.step_id == bindparam("at_step"))
        self.take_lone: Executable = insert(taken).from_select(
            ["run_id", "event", "step_id", "taken_at"],
            select(wait.c.run_id, self._event, wait.c.step_id, now).where(at_wait, ~self._had(self._event)),
        )
        at_step = and_(step.c.run_id == bindparam("at_run"), step.c.id == bindparam("at_step"))
        self.answer_step: Executable = (
            update(step)
            .where(at_step, step.c.status == "waiting")
            .values(status="completed", result=self._result, finished_at=now)
        )
        self.drop_lone: Executable = delete(wait).where(at_wait)
        self.wake_lone: Executable = self._waking(run.c.id == bindparam("at_run"), sends=1)

    def _answer_lone_at_once(self) -> None:
        """All of that as one statement, where statements can be nested."""
        self.answer_lone: Executable | None = None
        if self._dialect.writes_in_cte:
            asleep = self._asleep(bindparam("at_run"))
            woken, written = self._woken_by(asleep, bindparam("at_step"), self._event, self._result)
            self.answer_lone = self._sent(select(woken).select_from(woken), woken, isouter=False).add_cte(*written)

    def _emit_answering(self) -> None:
        """Record an event and answer the wait that it finds alone, as one statement: who emits one that nobody waits
        for pays nothing for the look, and who answers one has one commit. The answer is put together there, as the time
        of the event is the database's. A wait that asks something of the payload is left to who can read that."""
        event = self._tables.event
        self.emit_by_name: Executable | None = None
        self.emit_by_key: Executable | None = None
        if not self._dialect.writes_in_cte or isinstance(self._tables.step.c.result.type, Sealed):
            return
        emitted = self._emitting().returning(event.c.seq, event.c.emitted_at).cte("emitted")
        self.emit_by_name = self._answering_itself(emitted, self._with_waits(emitted))
        self.emit_by_key = self._answering_itself(emitted, self._with_waits(emitted, by_key=True))

    def _answering_itself(self, emitted: CTE, waits: Select[Any]) -> Select[Any]:
        found = waits.cte("found")
        is_alone = select(func.count()).select_from(found).scalar_subquery() == 1
        asks = found.c.match.is_not(None).label("asks")
        lone = select(found.c.run_id, found.c.step_id).where(~found.c.is_late, ~asks, is_alone).cte("lone")
        text = self._tables.event.c.payload.type
        before, between, after = (bindparam(f"answer_{part}", type_=text) for part in ("before", "between", "after"))
        moment = iso(of_one(emitted.c.emitted_at))
        result = before.concat(bindparam("payload", type_=text)).concat(between).concat(moment).concat(after)
        woken, written = self._woken_by(
            self._asleep(of_one(lone.c.run_id)),
            of_one(lone.c.step_id),
            of_one(emitted.c.seq),
            result,
        )
        whole = select(asks, woken).select_from(found).join(woken, woken.c.id == found.c.run_id, isouter=True)
        return self._sent(whole, woken, isouter=True).add_cte(*written)

    def _asleep(self, run_id: ColumnElement[str]) -> Select[Any]:
        run = self._tables.run
        return select(run.c.id).where(run.c.id == run_id, self._status(run) == "suspended", self._is_let_go())

    def _had(self, event: ColumnElement[Any]) -> ColumnElement[bool]:
        """Whether the run of a wait has had the event."""
        wait, taken = self._tables.wait, self._tables.taken
        return exists(select(literal(1)).where(taken.c.run_id == wait.c.run_id, taken.c.event == event))

    def _woken_by(
        self, asleep: Select[Any], step_id: ColumnElement[Any], event: ColumnElement[Any], result: ColumnElement[Any]
    ) -> tuple[CTE, list[CTE]]:
        """The run that it wakes, and what else is written. Whoever has answered the wait since the snapshot of this
        statement was taken has deleted it: then nothing is done."""
        run, step, wait, taken = self._tables.run, self._tables.step, self._tables.wait, self._tables.taken
        now, locked = self._dialect.now(), asleep.with_for_update(skip_locked=True, of=run).cte("locked")
        opened = (
            delete(wait)
            .where(wait.c.run_id == of_one(locked.c.id), wait.c.step_id == step_id, ~self._had(event))
            .returning(wait.c.run_id, wait.c.step_id)
            .cte("opened")
        )
        took = insert(taken).from_select(
            ["run_id", "event", "step_id", "taken_at"], select(opened.c.run_id, event, opened.c.step_id, now)
        )
        of_step = and_(step.c.run_id == of_one(opened.c.run_id), step.c.id == of_one(opened.c.step_id))
        answered = (
            update(step)
            .where(of_step, step.c.status == "waiting")
            .values(status="completed", result=result, finished_at=now)
        )
        woken = self._waking(run.c.id == of_one(opened.c.run_id), sends=1).returning(*self._of_due()).cte("woken")
        return woken, [took.cte("took"), answered.cte("answered")]

    def _sent(self, whole: Select[Any], woken: CTE, *, isouter: bool) -> Select[Any]:
        """With what else is read of a run whose message is to be sent."""
        run_input = self._tables.input
        read = whole.add_columns(run_input.c.arguments, run_input.c.message)
        return read.join(run_input, run_input.c.run_id == woken.c.id, isouter=isouter)


def iso(micros: ColumnElement[int]) -> ColumnElement[str]:
    """A time as ``datetime.isoformat`` writes it. PostgreSQL's."""
    epoch: ColumnElement[Any] = literal_column("timestamp 'epoch'")
    moment = epoch + micros * literal_column("interval '1 microsecond'")
    return func.to_char(moment, 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"', type_=Text())
