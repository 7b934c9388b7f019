"""The statements by which a run's end reaches the run that called it, and a cancelling those that it called."""

from __future__ import annotations

from sqlalchemy import BigInteger, Executable, Integer, bindparam, case, delete, literal, or_, select, update
from sqlalchemy import String as Text

from ..dialects import Dialect
from ..tables import Tables
from .base import ENDED, UNDER_WAY, StatementGroup

__all__ = ["HandingStatements"]


class HandingStatements(StatementGroup):
    """Calls, their answers, and cancelling."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        super().__init__(tables, dialect)
        self._calls()
        self._ends()
        self._cancelling()

    def _calls(self) -> None:
        run, step, now = self._tables.run, self._tables.step, self._dialect.now()
        self.origin_of: Executable = select(run.c.parent_id, run.c.parent_step, run.c.kind).where(
            run.c.id == bindparam("at_id")
        )
        self.lock_parent: Executable = (
            select(run.c.status, run.c.quorum).where(run.c.id == bindparam("at_id")).with_for_update()
        )
        self.open_call: Executable = select(run.c.id).where(
            run.c.id == bindparam("at_id"), run.c.kind.is_not(None), run.c.status.not_in(ENDED)
        )
        open_call = update(step).where(
            step.c.run_id == bindparam("at_id"),
            step.c.id == bindparam("at_step"),
            step.c.child == bindparam("at_child"),
            step.c.status == "waiting",
        )
        self.answer_call: Executable = open_call.values(
            status="completed", result=bindparam("result"), wake_at=None, finished_at=now
        )
        # Whether that was the last attempt is for the caller to say: its policy is in its code.
        self.fail_call: Executable = open_call.values(
            error=bindparam("error"), child=None, wake_at=now, finished_at=now
        )
        self.count_down: Executable = update(run).where(run.c.id == bindparam("at_id")).values(quorum=run.c.quorum - 1)
        self.called_by_runs: Executable = select(step.c.child).where(
            step.c.run_id.in_(bindparam("ids", expanding=True)),
            step.c.kind == "call",
            step.c.child.is_not(None),
            step.c.status == "waiting",
        )

    def _ends(self) -> None:
        run, step, wait, now = self._tables.run, self._tables.step, self._tables.wait, self._dialect.now()
        self.end_from_outside: Executable = (
            update(run)
            .where(
                run.c.id == bindparam("at_id"),
                run.c.status.not_in(ENDED),
                or_(bindparam("at_worker", type_=Text).is_(None), run.c.worker == bindparam("at_worker")),
            )
            .values(
                status=bindparam("status"),
                token=bindparam("token"),
                due_at=None,
                wake_at=None,
                waiting_on=None,
                queued_at=None,
                finished_at=now,
                delivered_at=now,
                keep_until=now + bindparam("retention", type_=BigInteger),
                result=bindparam("result"),
                error=bindparam("error"),
            )
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
                (run.c.token, case((is_held, run.c.token), else_=bindparam("token"))),
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
