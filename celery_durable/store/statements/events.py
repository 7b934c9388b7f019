"""Emit, wait, dispatch: the statements by which an event and a wait for it find each other.

**The race.** A run registers a wait and looks for an event that is there already; the dispatch of an event
looks for the waits that are registered. Under READ COMMITTED the two can miss each other: the look is before
the event's commit, the dispatch before the wait's. So both pass a *gate*, a lock for the event's name and key:

* Who registers holds the gate, shared with others who do, until the wait is committed; only then, by a
  statement of its own that sees what is committed by now, it looks for events.
* The dispatch, whose event is committed, closes the gate for a moment before it looks for waits. Whoever was
  inside has committed by then; whoever comes later sees the event.

So no wait is missed, dispatches do not wait for each other, nor do registrations, and nothing is locked while
a dispatch works. A wait without a key passes the gate of the name alone, and a dispatch closes both. The order
is always: gate, then run.

PostgreSQL has locks without rows for this. A row's shared lock would be written to the log, and let a stream of
registrations keep a dispatch out for ever. MySQL's row locks are fair and not logged: there a gate is one of some
rows of ``lease`` that nobody holds (the migration makes them). On SQLite who writes is alone anyway.

**The order.** Events are dispatched by several workers at once, and a later one may overtake an earlier one. So a
dispatch that finds waits first dispatches the events before its own that might answer them, too.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Executable,
    Integer,
    Select,
    String,
    and_,
    bindparam,
    delete,
    exists,
    false,
    func,
    insert,
    literal,
    or_,
    select,
    text,
    tuple_,
    update,
)

from ..dialects import Dialect
from ..tables import Tables
from .base import StatementGroup
from .recording import STEP_COLUMNS

__all__ = ["EventStatements"]

OF_EVENT = ("seq", "id", "name", "key", "payload", "emitted_at", "sends", "dispatched_at")
OF_LOG = (*OF_EVENT, "emitted_by", "error")


class EventStatements(StatementGroup):
    """The statements of events."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        super().__init__(tables, dialect)
        self._emit()
        self._gates()
        self._register()
        self._look()
        self._take()
        self._dispatch()
        self._answer()
        self._answer_at_once()
        self._log()

    def _emit(self) -> None:
        event = self._tables.event
        self.emit: Executable = self._emitting()
        emitted: Select[Any] = select(event.c.name, event.c.content_hash).where(event.c.id == bindparam("at_id"))
        # A transaction of the caller's on MySQL may have a snapshot that is older than the event.
        self.emitted: Executable = emitted.with_for_update(read=True) if self._dialect.name == "mysql" else emitted

    def _gates(self) -> None:
        lease = self._tables.lease
        self.close_gates: Executable | None = None
        if self._dialect.advisory_locks:
            name_gate, key_gate, gate = (
                bindparam(name, type_=BigInteger) for name in ("name_gate", "key_gate", "gate")
            )
            both = "SELECT pg_advisory_xact_lock(:name_gate), pg_advisory_xact_lock(:key_gate)"
            self.close_gates = text(both).bindparams(name_gate, key_gate)
            self.hold_gate: Executable = text("SELECT pg_advisory_xact_lock_shared(:gate)").bindparams(gate)
        elif not self._dialect.one_writer:
            at_gates = lease.c.name.in_(bindparam("gates", expanding=True))
            gates = select(lease.c.name).where(at_gates).order_by(lease.c.name)
            self.hold_gate = gates.with_for_update(read=True)
            self.close_gates = gates.with_for_update()

    def _register(self) -> None:
        """Park a run that waits; where statements can be nested: pass the gate, and all of it at once."""
        run, step, wait = self._tables.run, self._tables.step, self._tables.wait
        of_wait = ("step_id", "name", "key", "match", "since")
        given = {name: bindparam(f"wait_{name}", type_=wait.c[name].type) for name in of_wait}
        self.insert_wait: Executable = insert(wait).values(run_id=bindparam("at_id"), **given)
        self.park_waiting: Executable | None = None
        if self._dialect.advisory_locks:
            gate = select(func.pg_advisory_xact_lock_shared(bindparam("gate", type_=BigInteger))).cte("gate")
            parked = (
                self._fenced_run(**self._suspended())
                .where(exists(select(literal(1)).select_from(gate)))
                .returning(run.c.id)
                .cte("parked")
            )
            of_step = [bindparam(f"step_{name}", type_=step.c[name].type) for name in STEP_COLUMNS[1:]]
            new_step = insert(step).from_select(list(STEP_COLUMNS), select(parked.c.id, *of_step)).cte("new_step")
            self.park_waiting = (
                insert(wait).from_select(["run_id", *of_wait], select(parked.c.id, *given.values())).add_cte(new_step)
            )

    def _look(self) -> None:
        event, taken = self._tables.event, self._tables.taken
        had = exists(select(literal(1)).where(taken.c.run_id == bindparam("at_id"), taken.c.event == event.c.seq))
        look = (
            select(*(event.c[name] for name in OF_EVENT))
            .where(
                event.c.name == bindparam("at_name"),
                event.c.emitted_at >= bindparam("since"),
                or_(
                    event.c.emitted_at > bindparam("after_time"),
                    (event.c.emitted_at == bindparam("after_time")) & (event.c.seq > bindparam("after_seq")),
                ),
                ~had,
            )
            .order_by(event.c.emitted_at, event.c.seq)
            .limit(bindparam("limit", type_=Integer))
        )
        self.look_by_name: Executable = look
        self.look_by_key: Executable = look.where(event.c.key == bindparam("at_key"))
        self.one_event: Executable = select(*(event.c[name] for name in OF_EVENT)).where(
            event.c.id == bindparam("at_id")
        )

    def _take(self) -> None:
        step, wait, taken, now = self._tables.step, self._tables.wait, self._tables.taken, self._dialect.now()
        self.take: Executable = insert(taken).values(
            run_id=bindparam("at_id"),
            event=bindparam("event"),
            step_id=bindparam("of_step", type_=String),
            taken_at=now,
        )
        self.drop_wait: Executable = delete(wait).where(
            wait.c.run_id == bindparam("at_id"), wait.c.step_id == bindparam("at_step")
        )
        self.end_wait: Executable = (
            update(step)
            .where(step.c.run_id == bindparam("at_id"), step.c.id == bindparam("at_step"), step.c.status == "waiting")
            .values(
                status=bindparam("status"),
                result=bindparam("result"),
                error=bindparam("error"),
                finished_at=now,
            )
        )

    def _dispatch(self) -> None:
        event, wait, now = self._tables.event, self._tables.wait, self._dialect.now()
        waits = (
            select(wait.c.run_id, wait.c.step_id, wait.c.match)
            .where(
                wait.c.name == bindparam("at_name"),
                wait.c.since <= bindparam("emitted_at"),
                or_(
                    wait.c.run_id > bindparam("after_run"),
                    (wait.c.run_id == bindparam("after_run")) & (wait.c.step_id > bindparam("after_step")),
                ),
            )
            .order_by(wait.c.run_id, wait.c.step_id)
            .limit(bindparam("limit", type_=Integer))
        )
        self.waits_by_name: Executable = waits.where(wait.c.key.is_(None))
        self.waits_by_key: Executable = waits.where(or_(wait.c.key == bindparam("at_key"), wait.c.key.is_(None)))
        earlier = (
            select(event.c.id)
            .where(
                event.c.name == bindparam("at_name"),
                event.c.due_at.is_not(None),  # it is not dispatched; of those there is an index, and they are few
                event.c.seq < bindparam("at_seq"),
            )
            .order_by(event.c.seq)
            .limit(bindparam("limit", type_=Integer))
        )
        waiting = exists().where(wait.c.name == bindparam("at_name"))
        others = (waiting.where(wait.c.key.is_(None)).label("keyless"), earlier.exists().label("earlier"))
        self.prospects_by_name: Executable = select(false().label("keyed"), *others)
        self.prospects_by_key: Executable = select(
            waiting.where(wait.c.key == bindparam("at_key")).label("keyed"), *others
        )
        self.earlier_by_name: Executable = earlier
        self.earlier_by_key: Executable = earlier.where(event.c.key == bindparam("at_key"))
        self.due_events: Executable = (
            select(event.c.id, event.c.sends)
            .where(event.c.due_at <= self._dialect.instant())
            .order_by(event.c.due_at)
            .limit(bindparam("limit", type_=Integer))
        )
        undispatched = update(event).where(event.c.id == bindparam("at_id"), event.c.dispatched_at.is_(None))
        these_undispatched = update(event).where(
            event.c.id.in_(bindparam("ids", expanding=True)), event.c.dispatched_at.is_(None)
        )
        self.mark_events_sent: Executable = these_undispatched.values(
            due_at=now + bindparam("due_in", type_=BigInteger), sends=event.c.sends + 1
        )
        self.dispatching: Executable = undispatched.values(due_at=now + bindparam("due_in", type_=BigInteger))
        self.postponed: Executable = undispatched.values(
            due_at=now + bindparam("due_in", type_=BigInteger), error=bindparam("error")
        )
        self.dispatched: Executable = undispatched.values(dispatched_at=now, due_at=None, error=bindparam("error"))

    def _answer(self) -> None:
        """One event to a batch of waits, each of which is named by its run and step."""
        run, step, wait, taken = self._tables.run, self._tables.step, self._tables.wait, self._tables.taken
        run_input, now = self._tables.input, self._dialect.now()
        self.lock_runs: Executable = (
            select(run.c.id, run.c.status)
            .where(run.c.id.in_(bindparam("ids", expanding=True)))
            .order_by(run.c.id)
            .with_for_update()
        )
        ours = self._pair(wait.c.run_id, wait.c.step_id)
        self.open_waits: Executable = select(wait.c.run_id, wait.c.step_id).where(ours)
        self.takers: Executable = select(taken.c.run_id).where(
            taken.c.event == bindparam("event"), taken.c.run_id.in_(bindparam("ids", expanding=True))
        )
        self.take_all: Executable = insert(taken).from_select(
            ["run_id", "event", "step_id", "taken_at"],
            select(wait.c.run_id, bindparam("event", type_=BigInteger), wait.c.step_id, now).where(ours),
        )
        self.drop_these_waits: Executable = delete(wait).where(ours)
        self.answer_steps: Executable = (
            update(step)
            .where(self._pair(step.c.run_id, step.c.id), step.c.status == "waiting")
            .values(status="completed", result=bindparam("result"), finished_at=now)
        )
        # Named by their ids alone, which are locked: an index of the status would lead to all who sleep.
        these_runs = run.c.id.in_(bindparam("ids", expanding=True))
        self.wake_runs: Executable = self._waking(these_runs)
        self.to_send: Executable = select(*self._of_due()).where(these_runs)
        self.to_send_at_once: Executable = (
            select(*self._of_due(), run_input.c.arguments, run_input.c.message)
            .join_from(run, run_input, run_input.c.run_id == run.c.id, isouter=True)
            .where(these_runs)
        )

    def _answer_at_once(self) -> None:
        """All of that behind the lock of the runs as one statement, where statements can be nested: of each run the
        first wait that is open, if the run has not had the event. Gives back those of ``ids`` that it answers."""
        run, step, wait, taken = self._tables.run, self._tables.step, self._tables.wait, self._tables.taken
        self.answer_at_once: Executable | None = None
        if not self._dialect.writes_in_cte:
            return
        now, event = self._dialect.now(), bindparam("of_event", type_=BigInteger)
        had = exists(select(literal(1)).where(taken.c.run_id == wait.c.run_id, taken.c.event == event))
        taking = (
            select(wait.c.run_id, func.min(wait.c.step_id).label("step_id"))
            .where(self._pair(wait.c.run_id, wait.c.step_id), ~had)
            .group_by(wait.c.run_id)
            .cte("taking")
        )
        took = insert(taken).from_select(
            ["run_id", "event", "step_id", "taken_at"], select(taking.c.run_id, event, taking.c.step_id, now)
        )
        of_step = and_(step.c.run_id == taking.c.run_id, step.c.id == taking.c.step_id, step.c.status == "waiting")
        result = bindparam("given_result", type_=step.c.result.type)
        answered = update(step).where(of_step).values(status="completed", result=result, finished_at=now)
        dropped = delete(wait).where(wait.c.run_id == taking.c.run_id, wait.c.step_id == taking.c.step_id)
        asleep = taking.c.run_id.in_(bindparam("ids", expanding=True))
        woken = self._waking(run.c.id == taking.c.run_id, asleep)
        self.answer_at_once = (
            select(taking.c.run_id)
            .where(asleep)
            .add_cte(took.cte("took"), answered.cte("answered"), dropped.cte("dropped"), woken.cte("woken"))
        )

    @staticmethod
    def _pair(run_id: Column[Any], step_id: Column[Any]) -> Any:
        """The pairs; and their runs once more by themselves, by which every database takes the index."""
        pairs = tuple_(run_id, step_id).in_(bindparam("waits", expanding=True))
        return and_(run_id.in_(bindparam("runs", expanding=True)), pairs)

    def _log(self) -> None:
        event, taken = self._tables.event, self._tables.taken
        columns = [event.c[name] for name in OF_LOG]
        self.event_log: Select[Any] = select(*columns)
        is_wait = taken.c.step_id.is_not(None).label("is_wait")
        place = func.row_number().over(
            partition_by=(taken.c.event, taken.c.step_id.is_not(None)), order_by=(taken.c.taken_at, taken.c.run_id)
        )
        total = func.count().over(partition_by=(taken.c.event, taken.c.step_id.is_not(None)))
        numbered = (
            select(taken.c.event, taken.c.run_id, is_wait, place.label("place"), total.label("total"))
            .where(taken.c.event.in_(bindparam("events", expanding=True)))
            .subquery()
        )
        self.takers_of: Executable = (
            select(numbered)
            .where(numbered.c.place <= bindparam("most", type_=Integer))
            .order_by(numbered.c.event, numbered.c.place)
        )
        self.oldest_events: Executable = (
            select(event.c.seq, event.c.emitted_at, event.c.dispatched_at, self._dialect.now().label("now"))
            .order_by(event.c.seq)
            .limit(bindparam("limit", type_=Integer))
        )
        self.forget_events: Executable = delete(event).where(event.c.seq.in_(bindparam("events", expanding=True)))
        self.forget_takers: Executable = delete(taken).where(taken.c.event.in_(bindparam("events", expanding=True)))
