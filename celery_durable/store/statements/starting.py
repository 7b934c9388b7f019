"""Start and claim."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Executable,
    Integer,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)

from ..dialects import Dialect
from ..tables import Tables
from .base import ENDED, StatementGroup

__all__ = ["StartStatements"]

RUN_AT_START = (
    "id",
    "task",
    "status",
    "token",
    "due_at",
    "wake_at",
    "waiting_on",
    "input_hash",
    "code_version",
    "parent_id",
    "parent_step",
    "kind",
    "origin_id",
    "origin_step",
)


class StartStatements(StatementGroup):
    """The statements by which a run comes to be, and to be held by a worker."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        super().__init__(tables, dialect)
        self._start()
        self._claim()
        self._line()
        self._deliver()
        self._history()

    def _start(self) -> None:
        run, run_input, now = self._tables.run, self._tables.input, self._dialect.now()
        values: dict[str, Any] = {name: bindparam(name) for name in RUN_AT_START}
        # Times that are relative to the start are given as a distance to the database's clock.
        values["due_at"] = now + bindparam("due_in", type_=run.c.due_at.type)
        values["wake_at"] = now + bindparam("wake_in", type_=run.c.wake_at.type)
        values |= {
            "created_at": now,
            "sends": bindparam("sends"),
            "retries": bindparam("retries"),
            "recoveries": literal(0),
            "progress": literal(0),
            "generation": literal(0),
            "restarts": literal(0),
        }
        values |= {name: bindparam(name) for name in ("passes", "worker")}
        values["started_at"] = case((bindparam("begins", type_=Integer) == 1, now), else_=None)
        given_input: dict[str, Any] = {
            "run_id": bindparam("id"),
            "arguments": bindparam("arguments"),
            "message": bindparam("message"),
        }
        self.insert_run: Executable = self._insert_or_ignore(run).values(**values)
        self.insert_input: Executable = insert(run_input).values(**given_input)
        self.insert_inputs: Executable = self._insert_or_ignore(run_input).values(**given_input)
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
        self.started: Executable = select(
            run.c.task, run.c.input_hash, run.c.token, run.c.origin_id, run.c.origin_step
        ).where(run.c.id == bindparam("at_id"))

    def _claim(self) -> None:
        run, run_input, step, now = self._tables.run, self._tables.input, self._tables.step, self._dialect.now()
        message = select(run_input.c.message).where(run_input.c.run_id == run.c.id).scalar_subquery()
        arguments = select(run_input.c.arguments).where(run_input.c.run_id == run.c.id).scalar_subquery()
        claimed = (
            run.c.retries,
            run.c.recoveries,
            run.c.passes,
            run.c.created_at,
            run.c.started_at,
            run.c.due_at,
            run.c.wake_at,
            run.c.parent_id,
            run.c.parent_step,
            run.c.cancelling,
            run.c.generation,
            run.c.restarts,
            run.c.deadline_at,
            run.c.reported,
            message.label("message"),
            arguments.label("arguments"),
            exists().where(step.c.run_id == bindparam("at_id")).label("has_steps"),
            now.label("now"),
        )
        claim = (
            update(run)
            .where(
                run.c.id == bindparam("at_id"),
                self._claimable(),
                self._is_due(),
            )
            .values(
                status="running",
                token=bindparam("token"),
                worker=bindparam("worker"),
                due_at=now + bindparam("lease"),
                waiting_on=None,
                quorum=None,
                queued_at=None,
                sends=0,
                passes=run.c.passes + 1,
                started_at=func.coalesce(run.c.started_at, now),
                code_version=bindparam("code_version"),
                deadline_at=self._deadline(),
            )
        )
        # It need not last by itself, but with the next write. Where the database's machine dies in between nobody has
        # taken the run, and whoever did is refused: as where a worker dies between an effect and its record.
        returned = (*claimed, *self._dialect.not_waiting_for_disk())
        self.claim: Executable = claim.returning(*returned) if self._dialect.update_returning else claim
        self.claimed: Executable = select(*claimed).where(
            run.c.id == bindparam("at_id"), run.c.token == bindparam("token")
        )

    def _deadline(self) -> Any:
        """When a run's time is up: counted from its start, or from when it was to begin; and once it is known, kept."""
        run = self._tables.run
        begins = case((run.c.wake_at > run.c.created_at, run.c.wake_at), else_=run.c.created_at)
        return func.coalesce(run.c.deadline_at, begins + bindparam("run_timeout", type_=BigInteger))

    def _line(self) -> None:
        """The line for a share of a resource: see ``lines.py``."""
        run, now = self._tables.run, self._dialect.now()
        self.in_line: Executable = select(
            run.c.status,
            run.c.queued_at,
            self._is_due().label("due"),
            self._deadline().label("deadline_at"),
            now.label("now"),
        ).where(run.c.id == bindparam("at_id"))
        of_resource = run.c.resource == bindparam("at_resource")
        self.share: Executable = (
            update(run).where(run.c.id == bindparam("at_id"), self._claimable()).values(resource=bindparam("resource"))
        )
        before = or_(
            run.c.queued_at < bindparam("at_queued"),
            and_(run.c.queued_at == bindparam("at_queued"), run.c.id < bindparam("at_id")),
        )
        self.ahead: Executable = (
            select(func.count()).select_from(run).where(of_resource, or_(run.c.status == "running", before))
        )
        self.queue: Executable = (
            update(run)
            .where(run.c.id == bindparam("at_id"), self._claimable())
            .values(
                queued_at=func.coalesce(run.c.queued_at, now),
                token=bindparam("token"),
                due_at=bindparam("due_at"),
                waiting_on=bindparam("waiting_on"),
            )
        )
        self.at_work: Executable = select(func.count()).select_from(run).where(of_resource, run.c.status == "running")
        self.first_in_line: Executable = (
            select(run.c.id, run.c.due_at, run.c.deadline_at)
            .where(of_resource, run.c.queued_at.is_not(None))
            .order_by(run.c.queued_at, run.c.id)
            .limit(bindparam("limit", type_=Integer))
        )
        self.let_in: Executable = (
            update(run)
            .where(run.c.id.in_(bindparam("ids", expanding=True)), run.c.queued_at.is_not(None))
            .values(due_at=now + bindparam("due_in", type_=BigInteger), sends=0)
        )
        self.lines: Executable = (
            select(run.c.resource, func.min(run.c.task).label("task"))
            .where(run.c.queued_at.is_not(None))
            .group_by(run.c.resource)
            .limit(bindparam("limit", type_=Integer))
        )

    def _claimable(self) -> Any:
        return self._status(self._tables.run).in_(("pending", "suspended"))

    def _is_due(self) -> Any:
        wake_at = self._tables.run.c.wake_at
        return or_(wake_at.is_(None), wake_at <= self._dialect.now() + bindparam("slack"))

    def _deliver(self) -> None:
        run, now = self._tables.run, self._dialect.now()
        # A finished run is claimed once more when its result was not delivered and nobody is at it.
        self.claim_delivery: Executable = (
            update(run)
            .where(
                run.c.id == bindparam("at_id"),
                self._status(run).in_(ENDED),
                run.c.delivered_at.is_(None),
                run.c.wake_at <= now,
            )
            .values(
                token=bindparam("token"),
                wake_at=now + bindparam("lease"),
                due_at=now + bindparam("lease"),
                worker=bindparam("worker"),
            )
        )
        self.outcome: Executable = select(
            run.c.task, run.c.status, run.c.result, run.c.error, run.c.wake_at, run.c.token, now.label("now")
        ).where(run.c.id == bindparam("at_id"))

    def _history(self) -> None:
        step = self._tables.step
        self.history: Executable = (
            select(*self._of_history()).where(step.c.run_id == bindparam("at_id")).order_by(step.c.position)
        )
