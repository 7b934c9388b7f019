"""The named statements, built once for a store and a database.

**The fence.** Whoever executes a run holds its token, and everything it writes is conditional on the
run still having that token and being ``running``. A condition alone is no fence: where another
transaction has rotated the token and not yet committed, a plain ``INSERT ... SELECT ... WHERE token``
reads the old row and lets a stale write through. So the run's row has to be *locked* by the very
statement that writes:

* PostgreSQL: an UPDATE of the run in a WITH, which extends the lease as well, feeds the INSERT.
* MySQL, MariaDB: the INSERT's SELECT locks the run's row (``LOCK IN SHARE MODE``).
* SQLite: a writing statement has the whole database for itself, so the plain form is a fence there.

A row count of 0 means that the fence stopped the write: the lease is lost.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Executable,
    Integer,
    String,
    Table,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite

from .dialects import Dialect
from .tables import Tables

__all__ = ["Statements"]

RUN_AT_START = ("id", "task", "status", "token", "due_at", "wake_at", "waiting_on", "input_hash", "code_version")
STEP_COLUMNS = (
    "run_id",
    "id",
    "position",
    "kind",
    "function",
    "status",
    "input",
    "input_hash",
    "result",
    "error",
    "attempts",
    "wake_at",
    "heartbeat",
    "started_at",
    "finished_at",
)
SETTLING_COLUMNS = (
    "status",
    "result",
    "error",
    "attempts",
    "wake_at",
    "heartbeat",
    "started_at",
    "finished_at",
)
HISTORY_COLUMNS = (
    "id",
    "kind",
    "status",
    "position",
    "input_hash",
    "result",
    "error",
    "attempts",
    "wake_at",
    "heartbeat",
)


class Statements:
    """All statements of one store.

    Parameters of a WHERE begin with ``at_``, those of a step's row with ``step_``. An UPDATE has to be
    given exactly its own parameters: SQLAlchemy takes any other that has a column's name for one more
    column to set, even in an UPDATE inside a WITH.
    """

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        self._tables = tables
        self._dialect = dialect
        self.now = select(dialect.now())
        self._start()
        self._claim()
        self._steps()
        self._hand_offs()
        self._sweep()
        self._reading()

    # ------------------------------------------------------------------ start

    def _insert_or_ignore(self, table: Table) -> Any:
        """An INSERT that changes nothing where the key is there already."""
        if self._dialect.name == "postgresql":
            return postgresql.insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key))
        if self._dialect.name == "sqlite":
            return sqlite.insert(table).on_conflict_do_nothing(index_elements=list(table.primary_key))
        # IGNORE would let a too long text through cut off: every length is checked before.
        return mysql.insert(table).prefix_with("IGNORE")

    def _start(self) -> None:
        run, run_input, now = self._tables.run, self._tables.input, self._dialect.now()
        values = {name: bindparam(name) for name in RUN_AT_START}
        # Times that are relative to the start are given as a distance to the database's clock.
        values["due_at"] = now + bindparam("due_in", type_=run.c.due_at.type)
        values["wake_at"] = now + bindparam("wake_in", type_=run.c.wake_at.type)
        values |= {"created_at": now, "sends": literal(1), "retries": bindparam("retries"), "recoveries": literal(0)}
        values |= {name: bindparam(name) for name in ("passes", "worker")}
        values["started_at"] = case((bindparam("begins", type_=Integer) == 1, now), else_=None)
        given_input = {
            "run_id": bindparam("id"),
            "arguments": bindparam("arguments"),
            "message": bindparam("message"),
        }
        self.insert_run: Executable = self._insert_or_ignore(run).values(**values)
        self.insert_input: Executable = insert(run_input).values(**given_input)
        self.start_at_once: Executable | None = None
        if self._dialect.writes_in_cte:
            inserted = self._insert_or_ignore(run).values(**values).returning(run.c.id).cte("started")
            self.start_at_once = insert(run_input).from_select(
                ["run_id", "arguments", "message"],
                select(
                    inserted.c.id,
                    bindparam("arguments", type_=run_input.c.arguments.type),
                    bindparam("message", type_=run_input.c.message.type),
                ),
            )
        self.started: Executable = select(run.c.task, run.c.input_hash).where(run.c.id == bindparam("at_id"))

    # ------------------------------------------------------------------ claim

    def _claim(self) -> None:
        run, run_input, step, now = self._tables.run, self._tables.input, self._tables.step, self._dialect.now()
        message = select(run_input.c.message).where(run_input.c.run_id == run.c.id).scalar_subquery()
        arguments = select(run_input.c.arguments).where(run_input.c.run_id == run.c.id).scalar_subquery()
        claimed = (
            run.c.retries,
            run.c.recoveries,
            run.c.passes,
            run.c.created_at,
            run.c.wake_at,
            message.label("message"),
            arguments.label("arguments"),
            now.label("now"),
        )
        claim = (
            update(run)
            .where(
                run.c.id == bindparam("at_id"),
                run.c.status.in_(("pending", "suspended")),
                or_(run.c.wake_at.is_(None), run.c.wake_at <= now + bindparam("slack")),
            )
            .values(
                status="running",
                token=bindparam("token"),
                worker=bindparam("worker"),
                due_at=now + bindparam("lease"),
                waiting_on=None,
                sends=0,
                passes=run.c.passes + 1,
                started_at=func.coalesce(run.c.started_at, now),
                code_version=bindparam("code_version"),
            )
        )
        self.claim: Executable = claim.returning(*claimed) if self._dialect.update_returning else claim
        self.claimed: Executable = select(*claimed).where(
            run.c.id == bindparam("at_id"), run.c.token == bindparam("token")
        )
        # A finished run is claimed once more when its result was not delivered and nobody is at it.
        self.claim_delivery: Executable = (
            update(run)
            .where(
                run.c.id == bindparam("at_id"),
                run.c.status.in_(("completed", "failed")),
                run.c.delivered_at.is_(None),
                run.c.due_at <= now,
            )
            .values(token=bindparam("token"), due_at=now + bindparam("lease"), worker=bindparam("worker"))
        )
        self.outcome: Executable = select(
            run.c.task, run.c.status, run.c.result, run.c.error, run.c.wake_at, run.c.token, now.label("now")
        ).where(run.c.id == bindparam("at_id"))
        self.history: Executable = (
            select(*(step.c[name] for name in HISTORY_COLUMNS))
            .where(step.c.run_id == bindparam("at_id"))
            .order_by(step.c.position)
        )

    # ------------------------------------------------------------------ steps

    def _steps(self) -> None:
        run, step = self._tables.run, self._tables.step
        self.fence: Executable = self._fenced_run(due_at=bindparam("lease_until"), recoveries=0)
        new_step = [bindparam(f"step_{name}", type_=step.c[name].type) for name in STEP_COLUMNS[1:]]
        known_step = {name: bindparam(f"step_{name}") for name in SETTLING_COLUMNS}
        unsettled = and_(step.c.id == bindparam("at_step"), step.c.status.in_(("started", "waiting")))
        if self._dialect.writes_in_cte:
            fence = self._fenced_run(due_at=bindparam("lease_until"), recoveries=0).returning(run.c.id).cte("fence")
            source = select(fence.c.id, *new_step)
            self.record_known: Executable | None = (
                update(step).where(step.c.run_id == fence.c.id, unsettled).values(**known_step)
            )
        else:
            source = select(run.c.id, *new_step).where(
                run.c.id == bindparam("at_id"), run.c.token == bindparam("at_token"), run.c.status == "running"
            )
            if self._dialect.name == "mysql":
                source = source.with_for_update(read=True)
            self.record_known = None
        self.record_new: Executable = insert(step).from_select(list(STEP_COLUMNS), source)
        # Inside a transaction that has fenced already:
        self.insert_step: Executable = insert(step).values(
            {name: bindparam(f"step_{name}") for name in STEP_COLUMNS}
        )
        self.update_step: Executable = (
            update(step).where(step.c.run_id == bindparam("at_id"), unsettled).values(**known_step)
        )
        self.own_step: Executable = select(step.c.status).where(
            step.c.run_id == bindparam("at_id"), step.c.id == bindparam("at_step")
        )
        self.reset_steps: Executable = (
            update(step)
            .where(step.c.run_id == bindparam("at_id"), step.c.id.in_(bindparam("ids", expanding=True)))
            .values(status="waiting", attempts=0, wake_at=None, finished_at=None)
        )

    def _fenced_run(self, **values: Any) -> Any:
        run = self._tables.run
        return (
            update(run)
            .where(run.c.id == bindparam("at_id"), run.c.token == bindparam("at_token"), run.c.status == "running")
            .values(**values)
        )

    # -------------------------------------------------------------- hand-offs

    def _hand_offs(self) -> None:
        """The ways in which a pass gives up its run. Each rotates the token."""
        run = self._tables.run
        self.suspend: Executable = self._fenced_run(
            status="suspended",
            token=bindparam("token"),
            wake_at=bindparam("wake_at"),
            due_at=bindparam("due_at"),
            waiting_on=bindparam("waiting_on"),
            sends=bindparam("sends"),
            retries=run.c.retries + bindparam("retried"),
            error=bindparam("error"),
        )
        self.pause: Executable = self._fenced_run(
            status="paused",
            token=bindparam("token"),
            wake_at=None,
            due_at=None,
            waiting_on=bindparam("waiting_on"),
            error=bindparam("error"),
        )
        # The token stays: it is what the delivery of the result is marked under.
        self.finish: Executable = self._fenced_run(
            status=bindparam("status"),
            wake_at=None,
            due_at=bindparam("due_at"),
            waiting_on=None,
            finished_at=bindparam("finished_at"),
            result=bindparam("result"),
            error=bindparam("error"),
        )

    # ------------------------------------------------------------------ sweep

    def _sweep(self) -> None:
        run, run_input, lease, now = self._tables.run, self._tables.input, self._tables.lease, self._dialect.now()
        self.due: Executable = (
            select(
                run.c.id,
                run.c.task,
                run.c.status,
                run.c.token,
                run.c.due_at,
                run.c.wake_at,
                run.c.sends,
                run.c.retries,
                run.c.recoveries,
                run.c.passes,
                run.c.worker,
                now.label("now"),
            )
            .where(run.c.due_at <= now)
            .order_by(run.c.due_at)
            .limit(bindparam("limit", type_=Integer))
        )
        self.inputs: Executable = select(run_input.c.run_id, run_input.c.arguments, run_input.c.message).where(
            run_input.c.run_id.in_(bindparam("ids", expanding=True))
        )
        # Executed for many rows at once. The token seen must still be there: a claim in between wins.
        self.mark_sent: Executable = (
            update(run)
            .where(run.c.id == bindparam("at_id"), run.c.token == bindparam("at_token"))
            .values(due_at=now + bindparam("due_in", type_=run.c.due_at.type), sends=run.c.sends + bindparam("sent"))
        )
        self.recover: Executable = (
            update(run)
            .where(
                run.c.id == bindparam("at_id"),
                run.c.token == bindparam("at_token"),
                run.c.status == "running",
            )
            .values(
                status=bindparam("status"),
                token=bindparam("token"),
                recoveries=run.c.recoveries + 1,
                wake_at=None,
                due_at=case((bindparam("status", type_=String) == "suspended", now), else_=None),
                sends=0,
                waiting_on=bindparam("waiting_on"),
            )
        )
        self.running_under: Executable = select(run.c.token, run.c.recoveries).where(
            run.c.id == bindparam("at_id"), run.c.status == "running", run.c.worker == bindparam("worker")
        )
        self.extend: Executable = (
            update(run)
            .where(
                run.c.id == bindparam("at_id"), run.c.token == bindparam("at_token"), run.c.status == "running"
            )
            .values(due_at=now + bindparam("lease"))
        )
        self.delivered: Executable = (
            update(run)
            .where(
                run.c.id.in_(bindparam("ids", expanding=True)),
                run.c.status.in_(("completed", "failed", "cancelled")),
            )
            .values(delivered_at=now, due_at=None)
        )
        self.lease_take: Executable = (
            update(lease)
            .where(
                lease.c.name == bindparam("at_name"),
                or_(lease.c.holder == bindparam("holder"), lease.c.until <= now),
            )
            .values(holder=bindparam("holder"), until=now + bindparam("lease"))
        )
        self.lease_make: Executable = self._insert_or_ignore(lease).values(
            name=bindparam("at_name"), holder=bindparam("holder"), until=now + bindparam("lease")
        )
        self.lease_drop: Executable = delete(lease).where(
            lease.c.name == bindparam("at_name"), lease.c.holder == bindparam("holder")
        )
        self._operations()

    def _operations(self) -> None:
        run, step, now = self._tables.run, self._tables.step, self._dialect.now()
        self.resume_paused: Executable = (
            update(run)
            .where(run.c.id == bindparam("at_id"), run.c.status == "paused")
            .values(status="suspended", due_at=now, wake_at=None, sends=0, recoveries=0, waiting_on="its turn")
        )
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
            .where(run.c.id == bindparam("at_id"), run.c.token == bindparam("at_token"))
            .values(
                status="paused", token=bindparam("token"), due_at=None, wake_at=None, waiting_on=bindparam("waiting_on")
            )
        )
        self.unregistered: Executable = (
            update(run)
            .where(run.c.id == bindparam("at_id"), run.c.status.in_(("pending", "suspended")))
            .values(
                status=bindparam("status"),
                token=bindparam("token"),
                due_at=case((bindparam("status", type_=String) == "suspended", now + bindparam("delay")), else_=None),
                recoveries=run.c.recoveries + 1,
                waiting_on=bindparam("waiting_on"),
            )
        )
        self.end_from_outside: Executable = (
            update(run)
            .where(
                run.c.id == bindparam("at_id"),
                run.c.status.not_in(("completed", "failed", "cancelled")),
                or_(bindparam("worker", type_=String).is_(None), run.c.worker == bindparam("worker")),
            )
            .values(
                status=bindparam("status"),
                token=bindparam("token"),
                due_at=None,
                wake_at=None,
                waiting_on=None,
                finished_at=now,
                delivered_at=now,
                error=bindparam("error"),
            )
        )
        # Eager mode: time is let pass at once.
        self.skip_wait: Executable = (
            update(run)
            .where(run.c.id == bindparam("at_id"), run.c.status == "suspended")
            .values(wake_at=None)
        )
        self.skip_waiting_steps: Executable = (
            update(step)
            .where(step.c.run_id == bindparam("at_id"), step.c.status == "waiting", step.c.wake_at > now)
            .values(wake_at=now)
        )

    # ---------------------------------------------------------------- reading

    def _reading(self) -> None:
        run, run_input, step = self._tables.run, self._tables.input, self._tables.step
        self.get_run: Executable = (
            select(run, run_input.c.arguments)
            .outerjoin(run_input, run_input.c.run_id == run.c.id)
            .where(run.c.id == bindparam("at_id"))
        )
        self.get_steps: Executable = (
            select(step).where(step.c.run_id == bindparam("at_id")).order_by(step.c.position)
        )
