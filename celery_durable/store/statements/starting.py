"""Start and claim."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Executable, Integer, bindparam, case, func, insert, literal, or_, select, update

from ..dialects import Dialect
from ..tables import Tables
from .base import ENDED, HISTORY_COLUMNS, StatementGroup

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
)


class StartStatements(StatementGroup):
    """The statements by which a run comes to be, and to be held by a worker."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        super().__init__(tables, dialect)
        self._start()
        self._claim()
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
        self.started: Executable = select(run.c.task, run.c.input_hash, run.c.token).where(
            run.c.id == bindparam("at_id")
        )

    def _claim(self) -> None:
        run, run_input, now = self._tables.run, self._tables.input, self._dialect.now()
        message = select(run_input.c.message).where(run_input.c.run_id == run.c.id).scalar_subquery()
        arguments = select(run_input.c.arguments).where(run_input.c.run_id == run.c.id).scalar_subquery()
        claimed = (
            run.c.retries,
            run.c.recoveries,
            run.c.passes,
            run.c.created_at,
            run.c.started_at,
            run.c.wake_at,
            run.c.parent_id,
            run.c.parent_step,
            run.c.cancelling,
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
                quorum=None,
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

    def _deliver(self) -> None:
        run, now = self._tables.run, self._dialect.now()
        # A finished run is claimed once more when its result was not delivered and nobody is at it.
        self.claim_delivery: Executable = (
            update(run)
            .where(
                run.c.id == bindparam("at_id"),
                run.c.status.in_(ENDED),
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
            select(*(step.c[name] for name in HISTORY_COLUMNS))
            .where(step.c.run_id == bindparam("at_id"))
            .order_by(step.c.position)
        )
