"""The statements by which a run's end reaches the run that called it, and a cancelling those that it called."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import (
    BigInteger,
    Executable,
    Integer,
    bindparam,
    case,
    delete,
    func,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy import String as Text

from ..dialects import Dialect
from ..tables import Tables
from .base import UNDER_WAY, StatementGroup, is_open, of_one

__all__ = ["HandingStatements"]


class HandingStatements(StatementGroup):
    """Calls, their answers, and cancelling."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        super().__init__(tables, dialect)
        self._calls()
        self._ends()
        self._reports()
        self._cancelling()

    def _calls(self) -> None:
        run, step = self._tables.run, self._tables.step
        caller = run.alias("caller")
        self.origin_of: Executable = (
            select(run.c.parent_id, run.c.parent_step, run.c.kind, caller.c.quorum)
            .join_from(run, caller, caller.c.id == run.c.parent_id, isouter=True)
            .where(run.c.id == bindparam("at_id"))
        )
        self.lock_parent: Executable = (
            select(run.c.status, run.c.quorum).where(run.c.id == bindparam("at_id")).with_for_update()
        )
        self.open_call: Executable = select(run.c.id).where(
            run.c.id == bindparam("at_id"), run.c.kind.is_not(None), is_open(run)
        )
        open_call = update(step).where(
            step.c.run_id == bindparam("at_id"),
            step.c.id == bindparam("at_step"),
            step.c.child == bindparam("at_child"),
            step.c.status == "waiting",
        )
        self.answer_call: Executable = open_call.values(**self._answered("completed"))
        self.fail_call: Executable = open_call.values(**self._answered("failed"))
        self.count_down: Executable = update(run).where(run.c.id == bindparam("at_id")).values(quorum=run.c.quorum - 1)
        self.called_by_runs: Executable = select(step.c.child).where(
            step.c.run_id.in_(bindparam("ids", expanding=True)),
            step.c.kind == "call",
            step.c.child.is_not(None),
            step.c.status == "waiting",
        )

    def _answered(self, status: str) -> dict[str, Any]:
        """What the row of a step becomes when the run has ended that it calls."""
        now = self._dialect.now()
        if status == "completed":
            return {"status": "completed", "result": bindparam("result"), "wake_at": None, "finished_at": now}
        # Whether that was the last attempt is for the caller to say: its policy is in its code.
        return {"error": bindparam("error"), "child": None, "wake_at": now, "finished_at": now}

    def _ended(self) -> dict[str, Any]:
        """What the row of a run becomes that is over, and that Celery knows to be."""
        now = self._dialect.now()
        return {
            "status": bindparam("status"),
            "token": bindparam("token"),
            "due_at": None,
            "wake_at": None,
            "waiting_on": None,
            "queued_at": None,
            "finished_at": now,
            "delivered_at": now,
            "keep_until": now + bindparam("retention", type_=BigInteger),
            "result": bindparam("result"),
            "error": bindparam("error"),
        }

    def _ends(self) -> None:
        run, step, wait, now = self._tables.run, self._tables.step, self._tables.wait, self._dialect.now()
        self.end_from_outside: Executable = (
            update(run)
            .where(
                run.c.id == bindparam("at_id"),
                is_open(run),
                or_(bindparam("at_worker", type_=Text).is_(None), run.c.worker == bindparam("at_worker")),
            )
            .values(**self._ended())
        )
        self.close_steps: Executable = (
            update(step)
            .where(
                step.c.run_id.in_(bindparam("ids", expanding=True)),
                step.c.status == "waiting",
                or_(step.c.kind != "sleep", step.c.wake_at > now),  # a sleep that is over is left as it is
            )
            .values(status="cancelled", finished_at=now)
        )
        self.drop_waits: Executable = delete(wait).where(wait.c.run_id.in_(bindparam("ids", expanding=True)))
        self.drop_waits_of: Executable = delete(wait).where(
            wait.c.run_id == bindparam("at_id"), wait.c.step_id.in_(bindparam("ids", expanding=True))
        )

    def _reports(self) -> None:
        """The end of an ordinary task, its caller's answer and what follows from it for the caller as one statement,
        where that can be. The caller's row is locked first, as everywhere."""
        self.report_end: dict[str, Executable] = {}
        self.report_one_of_many: Executable | None = None
        if self._dialect.writes_in_cte:
            self.report_end = {status: self._report(status) for status in ("completed", "failed")}
        elif self._dialect.name == "mysql":
            self.report_one_of_many = self._report_one_of_many()

    def _report(self, status: str) -> Executable:
        """Gives back whether it has ended the task, and whom it has woken. No row: it is no task that a run called.

        The caller is locked before anything is written, as all that is written needs to know it. Rows are named by
        subqueries and not by joins: a plan that has run out of date would join all steps of the caller.
        """
        run, step, caller_row = self._tables.run, self._tables.step, self._tables.run.alias("caller_row")
        called = (
            select(run.c.parent_id, run.c.parent_step)
            .where(run.c.id == bindparam("at_id"), run.c.kind.is_not(None), run.c.parent_id.is_not(None))
            .cte("called")
        )
        caller = (
            select(caller_row.c.id, caller_row.c.status, caller_row.c.quorum)
            .where(caller_row.c.id == called.c.parent_id)
            .with_for_update(of=caller_row)
            .cte("caller")
        )
        is_locked = select(func.count()).select_from(caller).scalar_subquery() >= 0  # or forgotten
        ended = (
            update(run)
            .where(run.c.id == bindparam("at_id"), run.c.kind.is_not(None), is_open(run), is_locked)
            .values(**self._ended())
            .returning(run.c.id)
            .cte("ended")
        )
        answered = (
            update(step)
            .where(
                step.c.run_id == select(caller.c.id).where(is_open(caller)).scalar_subquery(),
                step.c.id == of_one(called.c.parent_step),
                step.c.child == of_one(ended.c.id),
                step.c.status == "waiting",
            )
            .values(**self._answered(status))
            .returning(step.c.run_id)
            .cte("answered")
        )
        outstanding = func.coalesce(caller.c.quorum, 0)
        parked = select(answered.c.run_id).where(caller.c.id == answered.c.run_id, self._status(caller) == "suspended")
        last = parked.where(outstanding <= 1) if status == "completed" else parked
        woken = self._waking(run.c.id == last.scalar_subquery()).returning(run.c.id).cte("woken")
        found = select(ended.c.id.label("ended"), woken.c.id.label("woken")).select_from(
            called.outerjoin(ended, true()).outerjoin(woken, true())
        )
        if status != "completed":
            return found
        one_of_many = run.c.id == parked.where(outstanding > 1).scalar_subquery()
        return found.add_cte(update(run).where(one_of_many).values(quorum=run.c.quorum - 1).cte("counted"))

    def _report_one_of_many(self) -> Executable:
        """The same where one statement can change rows of several tables, and give nothing back: of a task that is not
        the last one that its caller waits for. Rows are locked in the order in which they are named."""
        run, step = self._tables.run, self._tables.step
        caller, called = run.alias("caller"), run.alias("called")
        values = {caller.c.quorum: caller.c.quorum - 1}
        values |= {called.c[name]: value for name, value in self._ended().items()}
        values |= {step.c[name]: value for name, value in self._answered("completed").items()}
        return (
            update(cast(Any, caller))
            .where(
                caller.c.id == bindparam("at_parent"),
                self._status(caller) == "suspended",
                caller.c.quorum > 1,
                called.c.id == bindparam("at_id"),
                is_open(called),
                step.c.run_id == bindparam("at_parent"),
                step.c.id == bindparam("at_step"),
                step.c.child == bindparam("at_id"),
                step.c.status == "waiting",
            )
            .values(values)
        )

    def _cancelling(self) -> None:
        run, now = self._tables.run, self._dialect.now()
        these = run.c.id.in_(bindparam("ids", expanding=True))
        self.lock_for_cancel: Executable = (
            select(run.c.id, run.c.status, run.c.kind, run.c.passes, run.c.waiting_on, run.c.cancelling)
            .where(these)
            .order_by(run.c.id)
            .with_for_update()
        )
        # A worker is let finish the step that it is at: until its lease ends, nobody else has the run.
        is_running, is_held = run.c.status == "running", self._is_held()
        soon = now + bindparam("due_in", type_=BigInteger)
        self.ask_to_cancel: Executable = (
            update(run)
            .where(these)
            .ordered_values(
                # In this order: MySQL sees what it has set before.
                (run.c.token, case((is_held, run.c.token), else_=bindparam("token", type_=BigInteger))),
                (run.c.waiting_on, case((is_held, UNDER_WAY), else_="its cancelling")),
                (run.c.due_at, case((is_running, run.c.due_at), (is_held, run.c.wake_at), else_=soon)),
                (run.c.wake_at, case((is_running, run.c.due_at), (is_held, run.c.wake_at), else_=None)),
                (run.c.status, "suspended"),
                (run.c.cancelling, bindparam("reason")),
                (run.c.quorum, None),
                (run.c.queued_at, None),
                (run.c.sends, 0),
            )
        )
        delivered = bindparam("delivered", type_=Integer) == 1
        # Celery is told by a worker, as of every end: the run is due for that.
        self.end_cancelled: Executable = (
            update(run)
            .where(these)
            .values(
                status="cancelled",
                token=bindparam("token"),
                due_at=case((delivered, None), else_=now + bindparam("due_in", type_=BigInteger)),
                wake_at=case((delivered, None), else_=now),
                delivered_at=case((delivered, now), else_=None),
                sends=literal(0),
                waiting_on=None,
                queued_at=None,
                finished_at=now,
                keep_until=now + bindparam("retention", type_=BigInteger),
                error=bindparam("error"),
            )
        )
