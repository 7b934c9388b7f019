"""The end of a run, and cancelling: what reaches the run that called it, and those that it called.

Every operation here locks runs from the top down: who calls before who is called. What it leaves to be done
about other runs (an :class:`~.records.Aftermath`) is due in the database as well, so it is done even if nobody
hears of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ..core.faults import write_error
from ..errors import CallFailed, RunCancelled
from ..statuses import FINISHED
from .base import SOON, new_token
from .events import Events
from .link import Link, is_stale
from .records import Aftermath, Columns, Deed, Fence, Parent
from .starting import Starting
from .turns import Turns

__all__ = ["PAUSED", "Ending"]

PAUSED = "paused:"
"""What the reason of a run begins with that a person has paused: its code is sound."""


class Origin(NamedTuple):
    """Where a run comes from."""

    parent: Parent | None
    kind: str | None
    outstanding: int
    """How many calls its caller waited for when this was read."""


class Ending(Starting, Turns, Events):
    """Transactions in which a run ends, or is told to."""

    _reports_at_once = True
    """Until the server's isolation turns out to be too strict for that."""

    # --------------------------------------------------------------------- end

    def finish(
        self,
        link: Link,
        fence: Fence,
        *,
        status: str,
        now: int,
        lease: int,
        result: str | None = None,
        error: str | None = None,
        parent: Parent | None = None,
        open_steps: bool = False,
        retention: int | None = None,
        blamed: str | None = None,
        patience: float = 0.0,
    ) -> Aftermath | None:
        """End the run. Its result is then to be delivered within the lease.

        ``parent`` is who called it. ``open_steps``: it has waits, calls or locks that nobody will ask for. ``blamed``:
        the failed steps that it fails of. ``retention``: how long it is kept.
        """
        values = {
            "at_id": fence.run_id,
            "at_token": fence.token,
            "status": status,
            "due_at": now + lease,
            "finished_at": now,
            "keep_until": now + (self.retention if retention is None else retention),
            "blamed": blamed,
            "result": result,
            "error": error,
        }

        def end(connection: Connection) -> Aftermath | None:
            aftermath = Aftermath()
            if parent is None and not open_steps:
                ended = self._count(connection, self.statements.finish, values) == 1
            else:
                with link.atomic(connection):
                    caller = self._lock_parent(connection, parent)
                    ended = self._count(connection, self.statements.finish, values) == 1
                    if ended:
                        aftermath = self._answer_parent(connection, caller, fence.run_id, parent, status, result, error)
                    if ended and open_steps:
                        aftermath += self._close(connection, [fence.run_id])
            if ended:
                return aftermath
            row = self._row(connection, self.statements.outcome, at_id=fence.run_id)
            done = row is not None and row["token"] == fence.token and row["status"] == status
            return Aftermath(wake=(parent.run_id,) if parent else ()) if done else None

        return link.run(end, patience)

    def end_from_outside(
        self,
        link: Link,
        run_id: str,
        *,
        status: str,
        result: str | None = None,
        error: str | None = None,
        worker: str | None = None,
        patience: float = 0.0,
    ) -> Aftermath | None:
        """End a run that is over: a hard time limit, a revoke, an ordinary task that has reported. ``None``: it
        was not there, had ended, or is another worker's."""
        token = new_token()
        values = {
            "at_id": run_id,
            "token": token,
            "status": status,
            "result": result,
            "error": error,
            "at_worker": worker,
            "retention": self.retention,
        }

        def end(connection: Connection) -> Aftermath | None:
            if worker is None and status in self.statements.report_end and self._reports_at_once:
                reported = self._report_at_once(connection, values)
                if reported is not None:
                    return reported
            origin = self._origin_of(connection, run_id)
            if worker is None and status == "completed" and self._report_one_of_many(connection, origin, values):
                return Aftermath()
            parent = origin.parent
            with link.atomic(connection):
                caller = self._lock_parent(connection, parent)
                if self._count(connection, self.statements.end_from_outside, values) == 0:
                    if not self._has_token(connection, run_id, token):
                        return None
                    return Aftermath(wake=(parent.run_id,) if parent else ())  # by an earlier try
                aftermath = self._answer_parent(connection, caller, run_id, parent, status, result, error)
                return aftermath + self._close(connection, [run_id]) if origin.kind is None else aftermath

        return link.run(end, patience)

    def _report_at_once(self, connection: Connection, values: dict[str, Any]) -> Aftermath | None:
        """The end of an ordinary task and its caller's answer as one statement. ``None``: it had ended, or is none."""
        try:
            row = self._row(connection, self.statements.report_end[values["status"]], **values, due_in=SOON)
        except DBAPIError as error:
            # By itself it has the server's isolation, and where that is strict it fails behind every other report.
            if is_stale(error):
                self._reports_at_once = False
            raise
        if row is None or row["ended"] is None:
            return None
        return Aftermath(wake=() if row["woken"] is None else (row["woken"],))

    def _report_one_of_many(self, connection: Connection, origin: Origin, values: dict[str, Any]) -> bool:
        """The same where a statement gives nothing back. ``False``: it is the last one that its caller waits for, or it
        had ended, or is none: nothing was written."""
        statement, parent = self.statements.report_one_of_many, origin.parent
        if statement is None or parent is None or origin.kind is None or origin.outstanding <= 1:
            return False
        of_parent = {"at_parent": parent.run_id, "at_step": parent.step_id}
        return self._count(connection, statement, values | of_parent) > 0

    def _close(self, connection: Connection, ended: list[str]) -> Aftermath:
        """These runs have ended: nothing that they had open is waited for any more."""
        self._do(connection, self.statements.drop_waits, {"ids": ended})
        called = self._do(connection, self.statements.called_by_runs, {"ids": ended}).scalars()
        self._do(connection, self.statements.close_steps, {"ids": ended})
        aftermath = self._leave_lines(connection, ended)
        return aftermath + self._cancel(connection, called, "the run that called it has ended")

    def _origin_of(self, connection: Connection, run_id: str) -> Origin:
        """Who calls a run, and whether it is an ordinary task. Never changes, and is read before a transaction: on
        MySQL the first plain read in one fixes what all later ones see."""
        row = self._row(connection, self.statements.origin_of, at_id=run_id)
        if row is None:
            return Origin(None, None, 0)
        parent = Parent(row["parent_id"], row["parent_step"]) if row["parent_id"] else None
        return Origin(parent, row["kind"], row["quorum"] or 0)

    def _lock_parent(self, connection: Connection, parent: Parent | None) -> Columns | None:
        return None if parent is None else self._row(connection, self.statements.lock_parent, at_id=parent.run_id)

    def _answer_parent(
        self,
        connection: Connection,
        caller: Columns | None,
        run_id: str,
        parent: Parent | None,
        status: str,
        result: str | None,
        error: str | None,
    ) -> Aftermath:
        """Record a run's end as the answer of the step that called it, and wake the caller if that is all it needs."""
        if caller is None or parent is None or caller["status"] in FINISHED:
            return Aftermath()
        if status == "cancelled":
            error = write_error(CallFailed(f"the run {run_id}, which step {parent.step_id!r} called, was cancelled"))
        values = {"at_id": parent.run_id, "at_step": parent.step_id, "at_child": run_id}
        if status == "completed":
            answered = self._count(connection, self.statements.answer_call, values | {"result": result})
        else:
            answered = self._count(connection, self.statements.fail_call, values | {"error": error})
        if not answered or caller["status"] != "suspended":
            return Aftermath()
        if status == "completed" and (caller["quorum"] or 0) > 1:
            self._do(connection, self.statements.count_down, {"at_id": parent.run_id})
            return Aftermath()
        self._do(connection, self.statements.wake_runs, {"ids": [parent.run_id], "due_in": SOON})
        return Aftermath(wake=(parent.run_id,))

    def is_open_call(self, link: Link, run_id: str) -> bool:
        """Whether this is an ordinary task that a run called and that has not ended."""
        return bool(self._rows(link, self.statements.open_call, {"at_id": run_id}))

    # ------------------------------------------------------------------ cancel

    def cancel(
        self, link: Link, run_id: str, reason: str, *, force: bool = False, deed: Deed | None = None
    ) -> Aftermath | None:
        """Have a run cancelled: in its body, which can clean up; or at once, where no body is waiting.

        ``None``: there is no such run, it has ended, or it is being cancelled.
        """

        def work(connection: Connection) -> Aftermath | None:
            parent = self._origin_of(connection, run_id).parent
            with link.atomic(connection):
                caller = self._lock_parent(connection, parent)
                aftermath = self._cancel(connection, [run_id], reason, force=force)
                if aftermath == Aftermath():
                    return None
                self._note(self._on(connection).execute, run_id, deed)
                row = self._row(connection, self.statements.outcome, at_id=run_id)
                if row is not None and row["status"] in FINISHED:
                    aftermath += self._answer_parent(connection, caller, run_id, parent, "cancelled", None, None)
                return aftermath

        return link.run(work)

    def _cancel(self, connection: Connection, run_ids: list[str], reason: str, *, force: bool = False) -> Aftermath:
        """Cancel runs, in a transaction that holds who called them. Those that have no body to tell end at once."""
        if not run_ids:
            return Aftermath()
        rows = self._do(connection, self.statements.lock_for_cancel, {"ids": sorted(run_ids)}).mappings()
        told, ended, tasks = [], [], []
        for row in rows:
            if row["status"] in FINISHED:
                continue
            if row["kind"] is not None:
                tasks.append(row["id"])
            elif force or not row["passes"] or _is_stuck(row):
                ended.append(row["id"])
            elif (
                row["cancelling"] is None or row["status"] == "paused"
            ):  # told twice it would begin its cleaning up twice
                told.append(row["id"])
        values = {"token": new_token(), "due_in": SOON}
        if told:
            self._do(connection, self.statements.ask_to_cancel, values | {"ids": told, "reason": reason[:500]})
        for ids, delivered in ((ended, 0), (tasks, 1)):
            if ids:
                error = write_error(RunCancelled(reason[:500]))
                end = values | {"ids": ids, "delivered": delivered, "error": error, "retention": self.retention}
                self._do(connection, self.statements.end_cancelled, end)
        aftermath = Aftermath(wake=(*told, *ended), revoke=tuple(tasks))
        return aftermath + self._close(connection, ended) if ended else aftermath


def _is_stuck(row: Columns) -> bool:
    """Whether a run is paused because its body can't be executed: there is nobody to tell."""
    return row["status"] == "paused" and not (row["waiting_on"] or "").startswith(PAUSED)
