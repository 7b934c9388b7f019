"""What people do to runs, and what they read of each."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Executable,
    Integer,
    Select,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from ..dialects import Dialect
from ..tables import Tables
from .base import ENDED, UNDER_WAY, StatementGroup
from .recording import STEP_COLUMNS

__all__ = ["OperatingStatements"]

OF_REHEARSAL = (
    "task", "status", "created_at", "started_at", "retries", "recoveries", "passes", "wake_at", "cancelling",
    "generation", "restarts", "reported",
)  # fmt: skip


class OperatingStatements(StatementGroup):
    """The statements of the client."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        super().__init__(tables, dialect)
        self._acting()
        self._retrying()
        self._copying()
        self._answering()
        self._auditing()
        self._reading_runs()
        self._counting()
        self._forgetting()

    def _acting(self) -> None:
        run, now = self._tables.run, self._dialect.now()
        # In these orders: MySQL sees what it has set before.
        is_running, is_held = run.c.status == "running", self._is_held()
        keeps_time = or_(is_held, run.c.passes == 0)
        self.pause_by_hand: Executable = (
            update(run)
            .where(
                run.c.id == bindparam("at_id"),
                self._status(run).in_(("pending", "running", "suspended")),
                run.c.kind.is_(None),
            )
            .ordered_values(
                (run.c.token, case((is_held, run.c.token), else_=bindparam("token", type_=BigInteger))),
                (run.c.wake_at, case((is_running, run.c.due_at), (keeps_time, run.c.wake_at), else_=None)),
                (run.c.due_at, None),
                (run.c.queued_at, None),
                (run.c.quorum, None),
                (run.c.waiting_on, bindparam("waiting_on")),
                (run.c.status, "paused"),
            )
        )
        # A run that has not begun keeps the time before which it is not to begin; one that is held, that of its lease.
        begun, later = run.c.passes > 0, run.c.wake_at > now
        held = and_(begun, later)
        self.resume_by_hand: Executable = (
            update(run)
            .where(run.c.id == bindparam("at_id"), self._status(run) == "paused")
            .ordered_values(
                (run.c.token, case((held, run.c.token), else_=bindparam("token", type_=BigInteger))),
                (run.c.waiting_on, case((held, UNDER_WAY), else_="its turn")),
                (run.c.due_at, case((later, run.c.wake_at), else_=now)),
                (run.c.wake_at, case((later, run.c.wake_at), (begun, now), else_=run.c.wake_at)),
                (run.c.status, case((begun, "suspended"), else_="pending")),
                (run.c.sends, 0),
                (run.c.recoveries, 0),
                (run.c.error, None),
            )
        )

    def _retrying(self) -> None:
        run, step = self._tables.run, self._tables.step
        self.lock_run: Executable = (
            select(run.c.status, run.c.blamed, run.c.token, run.c.kind)
            .where(run.c.id == bindparam("at_id"))
            .with_for_update()
        )
        self.retry_failed: Executable = (
            update(run)
            .where(run.c.id == bindparam("at_id"), self._status(run) == "failed")
            .values(
                **self._begun_again(),
                restarts=func.coalesce(run.c.restarts, 0) + 1,
                waiting_on="its turn",
                finished_at=None,
                delivered_at=None,
                keep_until=None,
                cancelling=None,
                blamed=None,
                result=None,
                error=None,
            )
        )
        # And with those what the end of the run has closed: nobody was given an answer of these.
        self.drop_unfinished: Executable = delete(step).where(
            step.c.run_id == bindparam("at_id"),
            or_(
                step.c.id.in_(bindparam("ids", expanding=True)),
                and_(step.c.status == "cancelled", step.c.seen.is_(None)),
            ),
        )
        self.step_ids: Executable = select(step.c.id).where(
            step.c.run_id == bindparam("at_id"), step.c.id.in_(bindparam("ids", expanding=True))
        )

    def _copying(self) -> None:
        run, run_input, step, taken = (getattr(self._tables, name) for name in ("run", "input", "step", "taken"))
        self.original: Executable = (
            select(run.c.task, run.c.kind, run.c.input_hash, run_input.c.arguments, run_input.c.message)
            .join(run_input, run_input.c.run_id == run.c.id)
            .where(run.c.id == bindparam("at_id"))
        )
        self.place_of_step: Executable = select(step.c.position).where(
            step.c.run_id == bindparam("at_id"), step.c.id == bindparam("at_step")
        )
        before = and_(
            step.c.run_id == bindparam("at_id"),
            step.c.position < bindparam("before"),
            step.c.kind.not_in(("lock", "unlock", "undo", "rollback")),
            or_(
                step.c.status.in_(("completed", "failed", "cancelled")),
                and_(step.c.kind == "sleep", step.c.status == "waiting", step.c.wake_at <= self._dialect.now()),
            ),
        )
        others = [step.c[name] for name in STEP_COLUMNS[1:]]
        new_id = bindparam("new_id", type_=step.c.run_id.type)
        self.copy_steps: Executable = insert(step).from_select(
            list(STEP_COLUMNS), select(new_id, *others).where(before)
        )
        kept = select(step.c.id).where(before)
        self.copy_taken: Executable = insert(taken).from_select(
            ["run_id", "event", "step_id", "taken_at"],
            select(new_id, taken.c.event, taken.c.step_id, taken.c.taken_at).where(
                taken.c.run_id == bindparam("at_id"), or_(taken.c.step_id.is_(None), taken.c.step_id.in_(kept))
            ),
        )

    def _answering(self) -> None:
        run, step, wait = self._tables.run, self._tables.step, self._tables.wait
        at_step = (step.c.run_id == run.c.id) & (step.c.id == bindparam("at_step"))
        self.step_of_run: Executable = (
            select(run.c.status.label("run_status"), step.c.kind, step.c.status, step.c.input, step.c.started_at)
            .outerjoin(step, at_step)
            .where(run.c.id == bindparam("at_id"))
        )
        self.waits_of_run: Executable = (
            select(wait.c.step_id, wait.c.name, wait.c.key, wait.c.match)
            .where(wait.c.run_id == bindparam("at_id"))
            .order_by(wait.c.step_id)
        )

    def _auditing(self) -> None:
        audit, now = self._tables.audit, self._dialect.now()
        of_deed = ("action", "actor", "reason", "details")
        self.note: Executable = insert(audit).values(
            run_id=bindparam("of_run"), at=now, **{name: bindparam(name) for name in of_deed}
        )
        deeds: Select[Any] = select(audit.c.seq, audit.c.run_id, audit.c.at, *(audit.c[name] for name in of_deed))
        self.deeds_of: Executable = deeds.where(audit.c.run_id == bindparam("at_id")).order_by(audit.c.seq)
        self.deeds: Select[Any] = deeds.order_by(audit.c.seq.desc())

    def _reading_runs(self) -> None:
        run, run_input, event, taken = (getattr(self._tables, name) for name in ("run", "input", "event", "taken"))
        self.starter_of: Executable = (
            select(event.c.id)
            .join(taken, taken.c.event == event.c.seq)
            .where(taken.c.run_id == bindparam("at_id"), taken.c.step_id.is_(None))
        )
        self.for_rehearsal: Executable = (
            select(
                *(run.c[name] for name in OF_REHEARSAL),
                run_input.c.arguments,
                run_input.c.message,
                self._dialect.now().label("now"),
            )
            .join(run_input, run_input.c.run_id == run.c.id)
            .where(run.c.id == bindparam("at_id"), run.c.status.not_in(ENDED))
        )
        self.copies_of: Executable = (
            select(run.c.id).where(run.c.origin_id == bindparam("at_id")).order_by(run.c.created_at, run.c.id)
        )

    def _counting(self) -> None:
        run, event, lease = (getattr(self._tables, name) for name in ("run", "event", "lease"))
        self.counts: Executable = (
            select(run.c.task, run.c.status, func.count().label("runs"))
            .where(run.c.kind.is_(None))
            .group_by(run.c.task, run.c.status)
        )
        now = self._dialect.instant()
        late = select(func.min(run.c.due_at)).where(run.c.due_at <= now, run.c.status.in_(("pending", "suspended")))
        undispatched = select(func.count()).where(event.c.due_at.is_not(None)).scalar_subquery()
        sweeper = select(lease.c.holder).where(lease.c.name == "sweeper", lease.c.until > now).scalar_subquery()
        queued = select(func.count()).where(run.c.queued_at.is_not(None)).scalar_subquery()
        of_both = (queued.label("queued"), sweeper.label("sweeper"), now.label("now"))
        self.condition: Executable = select(
            late.scalar_subquery().label("due_since"), undispatched.label("undispatched"), *of_both
        )
        # The same for who asks often, or has many runs: nothing in here is counted by reading all that sleep.
        paused = select(func.count()).where(run.c.status == "paused").scalar_subquery()
        events_since = select(func.min(event.c.due_at)).where(event.c.due_at <= now).scalar_subquery()
        self.ailments: Executable = select(paused.label("paused"), events_since.label("events_since"), *of_both)
        # A run whose message was sent without an answer is due again soon: it is among these, too.
        self.late: Executable = (
            select(*(run.c[name] for name in ("id", "task", "status", "worker", "sends", "due_at")))
            .where(run.c.due_at <= now + bindparam("within", type_=BigInteger), run.c.kind.is_(None))
            .order_by(run.c.due_at)
            .limit(bindparam("limit", type_=Integer))
        )

    def _forgetting(self) -> None:
        run, now = self._tables.run, self._dialect.instant()
        limit = bindparam("limit", type_=Integer)
        self.past_keeping: Executable = (
            select(run.c.id)
            .where(run.c.keep_until <= now, run.c.status.in_(ENDED), run.c.delivered_at.is_not(None))
            .order_by(run.c.keep_until)
            .limit(limit)
        )
        over = run.c.finished_at < now - bindparam("older_than", type_=BigInteger)
        # A run that has finished before then was made before then: its index is by that.
        made = run.c.created_at < now - bindparam("older_than", type_=BigInteger)
        self.finished_before: Executable = (
            select(run.c.id).where(run.c.status.in_(ENDED), made, over).order_by(run.c.created_at).limit(limit)
        )
        ids: Any = bindparam("ids", expanding=True)
        self.forget_runs: Executable = delete(run).where(run.c.id.in_(ids), self._status(run).in_(ENDED))
        self.lock_ended: Executable = (
            select(run.c.id).where(run.c.id.in_(ids), self._status(run).in_(ENDED)).order_by(run.c.id).with_for_update()
        )
        tables = ("input", "step", "wait", "taken", "turn", "audit", "log")
        self.forget_rows: dict[str, Executable] = {
            name: delete(getattr(self._tables, name)).where(getattr(self._tables, name).c.run_id.in_(ids))
            for name in tables
        }
        run_input = self._tables.input
        self.new_arguments: Executable = (
            update(run_input).where(run_input.c.run_id == bindparam("at_id")).values(arguments=bindparam("arguments"))
        )
