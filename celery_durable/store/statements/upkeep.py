"""What is done to runs from outside: by the sweeper, the keeper, the worker's main process, by people."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Executable,
    Integer,
    String,
    bindparam,
    case,
    delete,
    exists,
    func,
    or_,
    select,
    update,
)

from ..dialects import Dialect
from ..tables import Tables
from .base import ENDED, StatementGroup

__all__ = ["UpkeepStatements"]

OF_OUTLINE = (
    "id", "position", "kind", "function", "status", "error", "attempts", "block", "child", "seen", "wake_at",
    "started_at", "finished_at",
)  # fmt: skip


class UpkeepStatements(StatementGroup):
    """The statements of sweeping, operating and reading."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        super().__init__(tables, dialect)
        self.now: Executable = select(dialect.now())
        self._sweep()
        self._recovery()
        self._keeping()
        self._leases()
        self._pausing()
        self._from_outside()
        self._reading()

    def _sweep(self) -> None:
        run, run_input, now = self._tables.run, self._tables.input, self._dialect.now()
        self.due: Executable = (
            select(*self._of_due())
            .where(run.c.due_at <= self._dialect.instant())
            .order_by(run.c.due_at)
            .limit(bindparam("limit", type_=Integer))
            .offset(bindparam("passed_over", type_=Integer))
        )
        # The question of every second, in one statement: mostly there is nothing to do.
        event, instant = self._tables.event, self._dialect.instant()
        self.what_is_due: Executable = select(
            exists().where(run.c.due_at <= instant).label("runs"),
            exists().where(event.c.due_at <= instant).label("events"),
        )
        self.untaken: Executable = select(run.c.id).where(*self._these_fences())
        self.inputs: Executable = select(run_input.c.run_id, run_input.c.arguments, run_input.c.message).where(
            run_input.c.run_id.in_(bindparam("ids", expanding=True))
        )
        # The token seen must still be there: a claim in between wins. A delivery keeps it, and then nothing is due.
        its_time = case((run.c.wake_at > now, run.c.wake_at), else_=now)
        self.mark_sent: Executable = (
            update(run)
            .where(*self._these_fences())
            .values(
                due_at=case(
                    (run.c.delivered_at.is_(None), its_time + bindparam("due_in", type_=BigInteger)), else_=None
                ),
                sends=run.c.sends + bindparam("sent", type_=Integer),
            )
        )

    def _recovery(self) -> None:
        run, step, now = self._tables.run, self._tables.step, self._dialect.now()
        self.recover: Executable = (
            update(run)
            .where(self._is_ours())
            .values(
                status=bindparam("status"),
                token=bindparam("token"),
                recoveries=bindparam("deaths"),
                progress=bindparam("steps"),
                wake_at=None,
                due_at=case((bindparam("status", type_=String) == "suspended", now), else_=None),
                sends=0,
                waiting_on=bindparam("waiting_on"),
            )
        )
        settled = (
            select(func.count())
            .select_from(step)
            .where(step.c.run_id == run.c.id, step.c.status != "started")
            .scalar_subquery()
        )
        self.deaths: Executable = select(run.c.recoveries, run.c.progress, settled.label("steps")).where(
            run.c.id == bindparam("at_id")
        )
        self.running_under: Executable = select(run.c.token).where(
            run.c.id == bindparam("at_id"), self._status(run) == "running", run.c.worker == bindparam("at_worker")
        )

    def _keeping(self) -> None:
        run, now = self._tables.run, self._dialect.now()
        # One that was stopped while it is at a step it keeps, too: there the lease is what the run waits for.
        lease_until = now + bindparam("lease", type_=BigInteger)
        self.extend: Executable = (
            update(run)
            .where(
                run.c.id == bindparam("at_id"),
                run.c.token == bindparam("at_token"),
                # Not IN, which can't be executed for many rows at once.
                or_(*(self._status(run) == status for status in ("running", "paused", "suspended"))),
            )
            .values(
                due_at=case((run.c.status == "paused", None), else_=lease_until),
                wake_at=case((run.c.status == "running", run.c.wake_at), else_=lease_until),
            )
        )
        self.hold_calls: Executable = (
            update(run)
            .where(run.c.id.in_(bindparam("ids", expanding=True)), run.c.kind.is_not(None), run.c.status.not_in(ENDED))
            .values(due_at=now + bindparam("due_in", type_=run.c.due_at.type))
        )
        self.delivered: Executable = (
            update(run)
            .where(*self._these_fences(), self._status(run).in_(ENDED))
            .values(delivered_at=now, due_at=None, wake_at=None)
        )

    def _these_fences(self) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        """The runs, and their tokens. A token is that of one run alone, so the two need not be paired: PostgreSQL would
        try each pair on each row."""
        run = self._tables.run
        these = run.c.id.in_(bindparam("ids", expanding=True))
        return these, run.c.token.in_(bindparam("tokens", expanding=True))

    def _leases(self) -> None:
        lease, now = self._tables.lease, self._dialect.now()
        self.lease_take: Executable = (
            update(lease)
            .where(
                lease.c.name == bindparam("at_name"),
                or_(lease.c.holder == bindparam("holder"), lease.c.until <= now),
            )
            .values(holder=bindparam("holder"), until=now + bindparam("lease"))
        )
        self.lease_left: Executable = select(lease.c.until - now).where(lease.c.name == bindparam("at_name"))
        self.lease_make: Executable = self._insert_or_ignore(lease).values(
            name=bindparam("at_name"), holder=bindparam("holder"), until=now + bindparam("lease")
        )
        marked = select(lease.c.holder).where(lease.c.name == "identity")
        # A transaction of the caller's on MySQL may have a snapshot that is older than the mark.
        self.marked: Executable = marked.with_for_update(read=True) if self._dialect.name == "mysql" else marked
        self.mark: Executable = self._insert_or_ignore(lease).values(name="identity", holder=bindparam("mark"), until=0)
        self.lease_drop: Executable = delete(lease).where(
            lease.c.name == bindparam("at_name"), lease.c.holder == bindparam("holder")
        )

    def _pausing(self) -> None:
        run, now = self._tables.run, self._dialect.now()
        # Runs parked because the code did not fit or the task was not there: a worker that starts may
        # bring the code that does. The reasons begin with a word that is kept in waiting_on.
        self.reconsider: Executable = (
            update(run)
            .where(
                run.c.status == "paused",
                or_(run.c.waiting_on.like("code:%"), run.c.waiting_on.like("codec:%")),
                run.c.task.in_(bindparam("tasks", expanding=True)),
            )
            .values(status="suspended", due_at=now, wake_at=None, sends=0, waiting_on="its turn")
        )
        self.set_aside: Executable = (
            update(run)
            .where(
                run.c.id == bindparam("at_id"),
                run.c.token == bindparam("at_token"),
                run.c.status.not_in(ENDED),
            )
            .values(
                status="paused",
                token=bindparam("token"),
                due_at=None,
                wake_at=None,
                queued_at=None,
                waiting_on=bindparam("waiting_on"),
            )
        )
        self.unregistered: Executable = (
            update(run)
            .where(run.c.id == bindparam("at_id"), self._status(run).in_(("pending", "suspended")))
            .values(
                status=bindparam("status"),
                token=bindparam("token"),
                due_at=case((bindparam("status", type_=String) == "suspended", now + bindparam("delay")), else_=None),
                recoveries=run.c.recoveries + 1,
                queued_at=None,
                waiting_on=bindparam("waiting_on"),
            )
        )

    def _from_outside(self) -> None:
        run, step, now = self._tables.run, self._tables.step, self._dialect.now()
        # Eager mode: time is let pass at once.
        self.skip_wait: Executable = (
            update(run)
            .where(run.c.id == bindparam("at_id"), self._status(run) == "suspended")
            .ordered_values(
                # In this order: MySQL sees what it has set before.
                (run.c.deadline_at, case((run.c.deadline_at <= run.c.wake_at, now), else_=run.c.deadline_at)),
                (run.c.wake_at, None),
            )
        )
        self.skip_waiting_steps: Executable = (
            update(step)
            .where(step.c.run_id == bindparam("at_id"), step.c.status == "waiting", step.c.wake_at > now)
            .values(wake_at=now)
        )

    def _reading(self) -> None:
        run, run_input, step = self._tables.run, self._tables.input, self._tables.step
        self.get_run: Executable = (
            select(run, run_input.c.arguments)
            .outerjoin(run_input, run_input.c.run_id == run.c.id)
            .where(run.c.id == bindparam("at_id"))
        )
        self.get_steps: Executable = select(step).where(step.c.run_id == bindparam("at_id")).order_by(step.c.position)
        # The large values are not even read; an error is, where it is one that stands.
        error = case((step.c.status != "completed", step.c.error))
        self.outline_steps: Executable = (
            select(*(error if name == "error" else step.c[name] for name in OF_OUTLINE))
            .where(step.c.run_id == bindparam("at_id"))
            .order_by(step.c.position)
        )
        self.some_steps: Executable = (
            select(step)
            .where(step.c.run_id == bindparam("at_id"), step.c.id.in_(bindparam("ids", expanding=True)))
            .order_by(step.c.position)
        )
        self.get_children: Executable = (
            select(run.c.id).where(run.c.parent_id == bindparam("at_id")).order_by(run.c.created_at, run.c.id)
        )
