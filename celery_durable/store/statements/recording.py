"""The fenced writes of the holder of a run.

**The fence.** Whoever executes a run holds its token, and everything it writes is conditional on the
run still having that token and being ``running``. A condition alone is no fence: where another
transaction has rotated the token and not yet committed, a plain ``INSERT ... SELECT ... WHERE token``
reads the old row and lets a stale write through. So the run's row has to be *locked* by the very
statement that writes:

* PostgreSQL: an UPDATE of the run in a WITH, which extends the lease as well, feeds the INSERT. Where the lease is
  fresh, a SELECT that locks the run does: it leaves no dead row behind.
* MySQL, MariaDB: the INSERT's SELECT locks the run's row (``LOCK IN SHARE MODE``).
* SQLite: a writing statement has the whole database for itself, so the plain form is a fence there.

A row count of 0 means that the fence stopped the write: the lease is lost.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Executable,
    Integer,
    Text,
    and_,
    bindparam,
    case,
    cast,
    column,
    delete,
    func,
    insert,
    or_,
    select,
    true,
    update,
)

from ..dialects import Dialect
from ..tables import Tables
from .base import StatementGroup

__all__ = ["SETTLING_COLUMNS", "STEP_COLUMNS", "RecordStatements"]

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
    "child",
    "seen",
    "started_at",
    "finished_at",
    "block",
    "tries",
)
SETTLING_COLUMNS = (
    "status",
    "result",
    "error",
    "attempts",
    "wake_at",
    "heartbeat",
    "child",
    "seen",
    "started_at",
    "finished_at",
    "tries",
)


_NUMBERS = (Integer, BigInteger)


class RecordStatements(StatementGroup):
    """The statements by which a pass records steps and gives up its run."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        super().__init__(tables, dialect)
        self._steps()
        self._together()
        self._hand_offs()

    def _steps(self) -> None:
        run, step = self._tables.run, self._tables.step
        self.fence: Executable = self._fenced_run(due_at=bindparam("lease_until"))
        new_step = [bindparam(f"step_{name}", type_=step.c[name].type) for name in STEP_COLUMNS[1:]]
        known_step: dict[str, Any] = {name: bindparam(f"step_{name}") for name in SETTLING_COLUMNS}
        unsettled = and_(step.c.id == bindparam("at_step"), or_(step.c.status == "started", step.c.status == "waiting"))
        if self._dialect.writes_in_cte:
            fence = self._fenced_run(due_at=bindparam("lease_until")).returning(run.c.id).cte("fence")
            held = select(run.c.id).where(self._is_ours()).with_for_update(key_share=True).cte("fence")
            source, if_fresh = (select(each.c.id, *new_step) for each in (fence, held))
            self.record_known: Executable | None = (
                update(step).where(step.c.run_id == fence.c.id, unsettled).values(**known_step)
            )
        else:
            source = select(run.c.id, *new_step).where(self._is_ours())
            if self._dialect.name == "mysql":
                source = source.with_for_update(read=True)
            if_fresh = None  # it writes nothing to the run
            self.record_known = None
        self.record_new: Executable = insert(step).from_select(list(STEP_COLUMNS), source)
        self.record_new_if_fresh: Executable = (
            self.record_new if if_fresh is None else insert(step).from_select(list(STEP_COLUMNS), if_fresh)
        )
        # Inside a transaction that has fenced already:
        self.insert_step: Executable = insert(step).values({name: bindparam(f"step_{name}") for name in STEP_COLUMNS})
        self.update_step: Executable = (
            update(step).where(step.c.run_id == bindparam("at_id"), unsettled).values(**known_step)
        )
        self.own_step: Executable = select(step.c.status).where(
            step.c.run_id == bindparam("at_id"), step.c.id == bindparam("at_step")
        )
        self.own_outcome: Executable = select(step.c.status, step.c.result).where(
            step.c.run_id == bindparam("at_id"), step.c.id == bindparam("at_step")
        )
        self.recorded_input: Executable = select(step.c.function, step.c.input).where(
            step.c.run_id == bindparam("at_id"), step.c.id == bindparam("at_step")
        )
        self.reset_steps: Executable = (
            update(step)
            .where(step.c.run_id == bindparam("at_id"), step.c.id.in_(bindparam("ids", expanding=True)))
            .values(status="waiting", attempts=0, wake_at=None, finished_at=None, child=None, seen=None)
        )
        self.drop_steps: Executable = delete(step).where(
            step.c.run_id == bindparam("at_id"), step.c.id.in_(bindparam("ids", expanding=True))
        )
        self.mark_seen: Executable = (
            update(step)
            .where(step.c.run_id == bindparam("at_id"), step.c.id == bindparam("at_step"))
            .values(seen=bindparam("place"))
        )
        # What has been settled from outside meanwhile, of the steps that the run is about to wait for.
        self.settled_steps: Executable = select(*self._of_history()).where(
            step.c.run_id == bindparam("at_id"),
            step.c.id.in_(bindparam("ids", expanding=True)),
            or_(step.c.status != "waiting", and_(step.c.kind == "call", step.c.child.is_(None))),
        )

    def _together(self) -> None:
        """Any number of new steps as one fenced statement, where an UPDATE can stand in a WITH."""
        run, step = self._tables.run, self._tables.step
        self.record_together: Executable | None = None
        if self._dialect.writes_in_cte:
            fence = self._fenced_run(due_at=bindparam("lease_until")).returning(run.c.id).cte("fence")
            columns = [
                column(name, step.c[name].type if isinstance(step.c[name].type, _NUMBERS) else Text())
                for name in STEP_COLUMNS[1:]
            ]
            given = func.json_to_recordset(cast(bindparam("rows", type_=Text), JSON))
            rows = given.table_valued(*columns).render_derived(name="given", with_types=True)
            source = select(fence.c.id, *(rows.c[name] for name in STEP_COLUMNS[1:])).select_from(
                fence.join(rows, true())
            )
            self.record_together = insert(step).from_select(list(STEP_COLUMNS), source)

    def _hand_offs(self) -> None:
        """The ways in which a pass gives up its run. Each rotates the token."""
        self.suspend: Executable = self._fenced_run(**self._suspended())
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
            wake_at=bindparam("due_at"),
            due_at=bindparam("due_at"),
            waiting_on=None,
            finished_at=bindparam("finished_at"),
            keep_until=bindparam("keep_until"),
            blamed=bindparam("blamed"),
            result=bindparam("result"),
            error=bindparam("error"),
        )
        # The body begins again with nothing but new arguments: see continue_as_new.
        self.start_over: Executable = self._fenced_run(
            **self._begun_again(),
            generation=func.coalesce(self._tables.run.c.generation, 0) + 1,
            reported=None,
            waiting_on="its next beginning",
        )
        self._handing_back()

    def _handing_back(self) -> None:
        """A run that was paused, or is to be cancelled, while its worker was at a step has its worker's token still."""
        run, now = self._tables.run, self._dialect.now()
        held = and_(
            run.c.id == bindparam("at_id"),
            run.c.token == bindparam("at_token"),
            self._status(run).in_(("paused", "suspended")),
        )
        self.held_by: Executable = select(run.c.status, run.c.waiting_on).where(held)
        goes_on = run.c.status == "suspended"
        why = case((run.c.cancelling.is_not(None), "its cancelling"), else_="its turn")
        self.hand_back: Executable = (
            update(run)
            .where(held)
            .values(
                token=bindparam("token"),
                wake_at=case((goes_on, now), else_=None),
                due_at=case((goes_on, now + bindparam("due_in", type_=BigInteger)), else_=None),
                sends=0,
                waiting_on=case((goes_on, why), else_=run.c.waiting_on),
            )
        )
