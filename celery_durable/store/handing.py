"""How a pass hands its run on: it parks it, ends it, or has others start, cancel and answer it.

Every operation here locks runs from the top down: who calls before who is called. What it leaves to be done
about other runs (an :class:`~.records.Aftermath`) is due in the database as well, so it is done even if nobody
hears of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping
from sqlalchemy.exc import IntegrityError

from ..core.faults import write_error
from ..core.ids import gate_of
from ..core.replay import Record
from ..errors import CallFailed
from ..model import FINISHED
from .base import new_token
from .events import Events
from .link import Link
from .records import Aftermath, Changes, Fence, NewRun, NewWait, Overtaken, Parent, StoredEvent
from .starting import Starting
from .statements import STEP_COLUMNS

__all__ = ["Handing"]

_SOON = 3_000_000
"""Microseconds that whoever wakes a run has for sending its message, before the sweeper does."""


class _TakenBack(Exception):
    """Ends a transaction without an effect, and carries what was found out in it."""

    def __init__(self, found: Overtaken) -> None:
        super().__init__(found)
        self.found = found


class Handing(Starting, Events):
    """Transactions in which a run meets others."""

    # ------------------------------------------------------------------ a pass

    def change(
        self, link: Link, fence: Fence, changes: Changes, lease_until: int, patience: float = 0.0
    ) -> Aftermath | Overtaken | None:
        """Write what a pass has come to, and go on. ``None``: the lease is lost."""
        at_run = {"at_id": fence.run_id, "at_token": fence.token, "lease_until": lease_until}

        def write(connection: Connection) -> Aftermath | Overtaken | None:
            try:
                with link.atomic(connection):
                    self._pass_gates(connection, changes.waits)
                    if connection.execute(self.statements.fence, at_run).rowcount != 1:
                        return None
                    return self._apply(connection, fence, changes)
            except _TakenBack as undone:
                return undone.found
            except IntegrityError:  # of a step: an earlier try, whose answer was lost, did all of this
                return self._done_before(connection, fence, changes)

        return link.run(write, patience)

    def _done_before(self, connection: Connection, fence: Fence, changes: Changes) -> Aftermath | None:
        new = next(step.id for step in changes.steps if not step.known)
        done = self._status_of(connection, fence.run_id, new) is not None
        return Aftermath(wake=tuple(call.id for call in changes.calls)) if done else None

    def suspend(
        self,
        link: Link,
        fence: Fence,
        *,
        changes: Changes | None = None,
        watched: Iterable[str] = (),
        reset: Iterable[str] = (),
        on_locked: Callable[[], None] | None = None,
        patience: float = 0.0,
        **suspension: Any,
    ) -> Aftermath | Overtaken | None:
        """Park the run. ``on_locked`` is called while the run's row is locked and still ours.

        ``watched`` are steps that were registered to be settled from outside, and ``Overtaken`` is that one was,
        or that an event for a new wait is there. ``None``: the lease is lost.
        """
        values = self._suspension(fence, **suspension)
        changes = changes or Changes()
        ids, registered = list(reset), list(watched)

        def park(connection: Connection) -> Aftermath | Overtaken | None:
            try:
                with link.atomic(connection):
                    if not self._park(connection, fence, values, changes):
                        kept = self._has_token(connection, fence.run_id, values["token"])
                        return Aftermath(wake=tuple(call.id for call in changes.calls)) if kept else None
                    if registered:
                        self._check_registered(connection, fence, registered)
                    aftermath = self._apply(connection, fence, changes, parked=True)
                    if ids:
                        connection.execute(self.statements.reset_steps, {"at_id": fence.run_id, "ids": ids})
                    if on_locked is not None:
                        on_locked()
            except _TakenBack as undone:
                return undone.found
            return aftermath

        return link.run(park, patience)

    def _park(self, connection: Connection, fence: Fence, values: dict[str, Any], changes: Changes) -> bool:
        """The run's row; and a single wait with it, where the database does that in one statement."""
        if self._is_lone_wait(changes):
            ((step_id, wait),) = changes.waits
            values = values | _of_wait(step_id, wait) | self._step_values(changes.steps[0], STEP_COLUMNS[1:])
            statement = self.statements.park_waiting
            assert statement is not None
            return connection.execute(statement, values | {"gate": self._gate(wait)}).rowcount == 1
        self._pass_gates(connection, changes.waits)
        return connection.execute(self.statements.suspend, values).rowcount == 1

    def _is_lone_wait(self, changes: Changes) -> bool:
        return (
            self.statements.park_waiting is not None
            and len(changes.waits) == len(changes.steps) == 1
            and not changes.steps[0].known
            and not (changes.marks or changes.calls or changes.withdrawn or changes.cancelled)
        )

    def _check_registered(self, connection: Connection, fence: Fence, steps: list[str]) -> None:
        """Under the lock of the run's row, which an answer takes as well: none of these steps is answered."""
        settled = self._settled(connection, fence.run_id, steps)
        if settled:
            raise _TakenBack(Overtaken(settled))

    def settled(self, link: Link, run_id: str, steps: Iterable[str]) -> tuple[Record, ...]:
        """Those of these steps that have an answer by now."""
        ids = list(steps)
        return link.run(lambda connection: self._settled(connection, run_id, ids))

    def _settled(self, connection: Connection, run_id: str, steps: list[str]) -> tuple[Record, ...]:
        rows = connection.execute(self.statements.settled_steps, {"at_id": run_id, "ids": steps})
        return tuple(Record(*row) for row in rows)

    def _apply(self, connection: Connection, fence: Fence, changes: Changes, *, parked: bool = False) -> Aftermath:
        """Write changes, in a transaction that holds the run."""
        alone = parked and self._is_lone_wait(changes)
        at_run = {"at_id": fence.run_id}
        if changes.given_up:
            self._check_registered(connection, fence, list(changes.given_up))
        if changes.steps and not alone:
            self._write_steps(connection, fence, changes.steps)
        if changes.marks:
            marks = [{**at_run, "at_step": step, "place": place} for step, place in changes.marks]
            connection.execute(self.statements.mark_seen, marks)
        if changes.calls:
            self._insert_calls(connection, changes.calls)
        if changes.waits:
            if not alone:
                rows = [_of_wait(step, wait) | at_run for step, wait in changes.waits]
                connection.execute(self.statements.insert_wait, rows)
            self._take_back_answered(connection, fence.run_id, changes.waits)
        aftermath = Aftermath(wake=tuple(call.id for call in changes.calls if not call.wake_in))
        if changes.withdrawn:
            connection.execute(self.statements.drop_waits_of, at_run | {"ids": list(changes.withdrawn)})
        if changes.cancelled:
            reason = f"run {fence.run_id} does not wait for it any more"
            aftermath += self._cancel(connection, list(changes.cancelled), reason)
        return aftermath

    def _insert_calls(self, connection: Connection, calls: Sequence[NewRun]) -> None:
        rows = [self._pending_values(call) | {"sends": 0} for call in calls]  # it is sent once this is committed
        connection.execute(self.statements.insert_run, rows)
        inputs = [{name: row[name] for name in ("id", "arguments", "message")} for row in rows]
        connection.execute(self.statements.insert_inputs, inputs)

    def _take_back_answered(self, connection: Connection, run_id: str, waits: Sequence[tuple[str, NewWait]]) -> None:
        """An event that is there answers a new wait: then nothing was registered, and the pass takes it."""
        found: dict[str, StoredEvent] = {}
        for step, wait in waits:
            event = self._look(connection, run_id, wait)
            if event is not None and all(event.seq != other.seq for other in found.values()):
                found[step] = event
        if found:
            raise _TakenBack(Overtaken(events=found))

    def _gate(self, wait: NewWait) -> int:
        return gate_of(self.prefix, wait.name, *([] if wait.key is None else [wait.key]))

    def _pass_gates(self, connection: Connection, waits: Sequence[tuple[str, NewWait]]) -> None:
        """Hold the gates of these waits until the transaction ends, in one order."""
        gates = sorted({self._gate(wait) for _, wait in waits})
        if not gates or self.dialect.one_writer:
            return
        if not self.dialect.advisory_locks:
            self._at_gates(connection, self.statements.hold_gate, gates)
            return
        for gate in gates:
            connection.execute(self.statements.hold_gate, {"gate": gate})

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
        patience: float = 0.0,
    ) -> Aftermath | None:
        """End the run. Its result is then to be delivered within the lease.

        ``parent`` is who called it. ``open_steps``: it has waits or calls that nobody will ask for.
        """
        values = {
            "at_id": fence.run_id,
            "at_token": fence.token,
            "status": status,
            "due_at": now + lease,
            "finished_at": now,
            "result": result,
            "error": error,
        }

        def end(connection: Connection) -> Aftermath | None:
            aftermath = Aftermath()
            if parent is None and not open_steps:
                ended = connection.execute(self.statements.finish, values).rowcount == 1
            else:
                with link.atomic(connection):
                    caller = self._lock_parent(connection, parent)
                    ended = connection.execute(self.statements.finish, values).rowcount == 1
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
        values = {
            "at_id": run_id,
            "token": new_token(),
            "status": status,
            "result": result,
            "error": error,
            "at_worker": worker,
        }

        def end(connection: Connection) -> Aftermath | None:
            parent, kind = self._origin_of(connection, run_id)
            with link.atomic(connection):
                caller = self._lock_parent(connection, parent)
                if connection.execute(self.statements.end_from_outside, values).rowcount == 0:
                    return None
                aftermath = self._answer_parent(connection, caller, run_id, parent, status, result, error)
                return aftermath + self._close(connection, [run_id]) if kind is None else aftermath

        return link.run(end, patience)

    def _close(self, connection: Connection, ended: list[str]) -> Aftermath:
        """These runs have ended: nothing that they had open is waited for any more."""
        connection.execute(self.statements.drop_waits, {"ids": ended})
        called = list(connection.execute(self.statements.called_by_runs, {"ids": ended}).scalars())
        connection.execute(self.statements.close_steps, {"ids": ended})
        return self._cancel(connection, called, "the run that called it has ended")

    def _origin_of(self, connection: Connection, run_id: str) -> tuple[Parent | None, str | None]:
        """Who calls a run, and whether it is an ordinary task. Never changes, and is read before a transaction: on
        MySQL the first plain read in one fixes what all later ones see."""
        row = self._row(connection, self.statements.origin_of, at_id=run_id)
        if row is None:
            return None, None
        return Parent(row["parent_id"], row["parent_step"]) if row["parent_id"] else None, row["kind"]

    def _lock_parent(self, connection: Connection, parent: Parent | None) -> RowMapping | None:
        return None if parent is None else self._row(connection, self.statements.lock_parent, at_id=parent.run_id)

    def _answer_parent(
        self,
        connection: Connection,
        caller: RowMapping | None,
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
            answered = connection.execute(self.statements.answer_call, values | {"result": result}).rowcount
        else:
            answered = connection.execute(self.statements.fail_call, values | {"error": error}).rowcount
        if not answered or caller["status"] != "suspended":
            return Aftermath()
        if status == "completed" and (caller["quorum"] or 0) > 1:
            connection.execute(self.statements.count_down, {"at_id": parent.run_id})
            return Aftermath()
        connection.execute(self.statements.wake_runs, {"ids": [parent.run_id], "due_in": _SOON})
        return Aftermath(wake=(parent.run_id,))

    def is_open_call(self, link: Link, run_id: str) -> bool:
        """Whether this is an ordinary task that a run called and that has not ended."""
        return bool(self._rows(link, self.statements.open_call, {"at_id": run_id}))

    # ------------------------------------------------------------------ cancel

    def cancel(self, link: Link, run_id: str, reason: str, *, force: bool = False) -> Aftermath | None:
        """Have a run cancelled: in its body, which can clean up; or at once, where no body is waiting.

        ``None``: there is no such run, or it has ended.
        """

        def work(connection: Connection) -> Aftermath | None:
            parent, _ = self._origin_of(connection, run_id)
            with link.atomic(connection):
                caller = self._lock_parent(connection, parent)
                aftermath = self._cancel(connection, [run_id], reason, force=force)
                if aftermath == Aftermath():
                    return None
                row = self._row(connection, self.statements.outcome, at_id=run_id)
                if row is not None and row["status"] in FINISHED:
                    aftermath += self._answer_parent(connection, caller, run_id, parent, "cancelled", None, None)
                return aftermath

        return link.run(work)

    def _cancel(self, connection: Connection, run_ids: list[str], reason: str, *, force: bool = False) -> Aftermath:
        """Cancel runs, in a transaction that holds who called them. Those that have no body to tell end at once."""
        if not run_ids:
            return Aftermath()
        rows = connection.execute(self.statements.lock_for_cancel, {"ids": sorted(run_ids)}).mappings().all()
        told, ended, tasks = [], [], []
        for row in rows:
            if row["status"] in FINISHED:
                continue
            if row["kind"] is not None:
                tasks.append(row["id"])
            elif force or row["status"] == "paused" or not row["passes"]:
                ended.append(row["id"])
            else:
                told.append(row["id"])
        values = {"token": new_token(), "due_in": _SOON}
        if told:
            connection.execute(self.statements.ask_to_cancel, values | {"ids": told, "reason": reason[:500]})
        for ids, delivered in ((ended, 0), (tasks, 1)):
            if ids:
                end = values | {"ids": ids, "delivered": delivered, "error": None}
                connection.execute(self.statements.end_cancelled, end)
        aftermath = Aftermath(wake=(*told, *ended), revoke=tuple(tasks))
        return aftermath + self._close(connection, ended) if ended else aftermath


def _of_wait(step_id: str, wait: NewWait) -> dict[str, Any]:
    return {f"wait_{name}": value for name, value in vars(wait).items()} | {"wait_step_id": step_id}
