"""How a pass hands its run on: what it waits for and what it calls is written with what it has done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from ..core.ids import gate_of
from ..core.replay import Record
from .base import new_token
from .ending import Ending
from .link import Link
from .recording import new_values
from .records import Aftermath, Changes, Fence, NewRun, NewTurn, NewWait, Overtaken, StoredEvent
from .turns import of_turn

__all__ = ["Handing"]


class _TakenBack(Exception):
    """Ends a transaction without an effect, and carries what was found out in it."""

    def __init__(self, found: Overtaken) -> None:
        super().__init__(found)
        self.found = found


class Handing(Ending):
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
                    self._enter_gates(connection, changes)
                    if self._count(connection, self.statements.fence, at_run) != 1:
                        return None
                    return self._apply(connection, fence, changes)
            except _TakenBack as undone:
                return undone.found
            except IntegrityError:  # of a step: an earlier try, whose answer was lost, did all of this
                return self._done_before(connection, fence, changes)

        return link.run(write, patience)

    def _done_before(self, connection: Connection, fence: Fence, changes: Changes) -> Aftermath | None:
        new = next((step.id for step in changes.steps if not step.known), None)
        done = new is None or self._status_of(connection, fence.run_id, new) is not None
        return Aftermath(wake=tuple(call.id for call in changes.calls)) if done else None

    def suspend(
        self,
        link: Link,
        fence: Fence,
        *,
        changes: Changes | None = None,
        watched: Iterable[str] = (),
        reset: Iterable[str] = (),
        anew: Iterable[str] = (),
        on_locked: Callable[[], None] | None = None,
        patience: float = 0.0,
        **suspension: Any,
    ) -> Aftermath | Overtaken | None:
        """Park the run. ``on_locked`` is called while the run's row is locked and still ours.

        ``watched`` are steps that were registered to be settled from outside, and ``Overtaken`` is that one was,
        or that an event for a new wait is there. ``reset`` are steps that are to be tried again, ``anew`` those that
        are to begin as if they had never been asked for. ``None``: the lease is lost.
        """
        values = self._suspension(fence, **suspension)
        changes = changes or Changes()
        ids, registered, dropped = list(reset), list(watched), list(anew)

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
                        self._do(connection, self.statements.reset_steps, {"at_id": fence.run_id, "ids": ids})
                    if dropped:
                        self._do(connection, self.statements.drop_steps, {"at_id": fence.run_id, "ids": dropped})
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
            values = values | _of_wait(step_id, wait) | new_values(changes.steps[0])
            statement = self.statements.park_waiting
            assert statement is not None
            return self._count(connection, statement, values | {"gate": self._gate(wait)}) == 1
        self._enter_gates(connection, changes)
        return self._count(connection, self.statements.suspend, values) == 1

    def _is_lone_wait(self, changes: Changes) -> bool:
        return (
            self.statements.park_waiting is not None
            and len(changes.waits) == len(changes.steps) == 1
            and not changes.steps[0].known
            and not (changes.marks or changes.calls or changes.withdrawn or changes.cancelled or changes.turns)
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
        rows = self._do(connection, self.statements.settled_steps, {"at_id": run_id, "ids": steps}).rows
        return tuple(map(Record._make, rows))

    def _apply(self, connection: Connection, fence: Fence, changes: Changes, *, parked: bool = False) -> Aftermath:
        """Write changes, in a transaction that holds the run."""
        alone = parked and self._is_lone_wait(changes)
        at_run = {"at_id": fence.run_id}
        if changes.given_up:
            self._check_registered(connection, fence, list(changes.given_up))
        if changes.steps and not alone:
            self._write_steps(self._on(connection), fence, changes.steps)
        if changes.marks:
            marks = [{**at_run, "at_step": step, "place": place} for step, place in changes.marks]
            self._do(connection, self.statements.mark_seen, marks)
        if changes.calls:
            self._insert_calls(connection, changes.calls)
        if changes.waits:
            if not alone:
                rows = [_of_wait(step, wait) | at_run for step, wait in changes.waits]
                self._do(connection, self.statements.insert_wait, rows)
            self._take_back_answered(connection, fence.run_id, changes.waits)
        aftermath = Aftermath(wake=tuple(call.id for call in changes.calls if not call.wake_in))
        if changes.turns:
            self._stand_in_line(connection, fence.run_id, changes.turns)
        if changes.withdrawn:
            self._do(connection, self.statements.drop_waits_of, at_run | {"ids": list(changes.withdrawn)})
        if changes.left:
            aftermath += self._leave_line(connection, fence.run_id, changes.left)
        if changes.cancelled:
            reason = f"run {fence.run_id} does not wait for it any more"
            aftermath += self._cancel(connection, list(changes.cancelled), reason)
        return aftermath

    def _insert_calls(self, connection: Connection, calls: Sequence[NewRun]) -> None:
        rows = [self._pending_values(call) | {"sends": 0} for call in calls]  # it is sent once this is committed
        self._do(connection, self.statements.insert_run, rows)
        inputs = [{name: row[name] for name in ("id", "arguments", "message")} for row in rows]
        self._do(connection, self.statements.insert_inputs, inputs)

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

    def _enter_gates(self, connection: Connection, changes: Changes) -> None:
        """Hold the gates of what is to be waited for until the transaction ends; for locks alone."""
        for name in sorted({turn.name for _, turn in changes.turns}):
            self._shut(connection, "turn", name)
        self._pass_gates(connection, (self._gate(wait) for _, wait in changes.waits))

    def _stand_in_line(self, connection: Connection, run_id: str, turns: Sequence[tuple[str, NewTurn]]) -> None:
        """Places in the lines for locks; one that is free by now is not waited for."""
        fence = Fence(run_id, 0)
        rows = [of_turn(fence, step, turn, held=False) for step, turn in turns]
        self._do(connection, self.statements.insert_turn, rows)
        for step, turn in turns:
            if self._is_free(connection, turn.name, run_id, step):
                raise _TakenBack(Overtaken())

    def start_over(self, link: Link, fence: Fence, arguments: str, patience: float = 0.0) -> Aftermath | None:
        """Forget the run's history, and have its body begin again with these arguments. ``None``: the lease is lost."""
        token = new_token()
        values = {"at_id": fence.run_id, "at_token": fence.token, "token": token}

        def over(connection: Connection) -> Aftermath | None:
            with link.atomic(connection):
                if self._count(connection, self.statements.start_over, values) != 1:
                    kept = self._has_token(connection, fence.run_id, token)
                    return Aftermath(wake=(fence.run_id,)) if kept else None
                aftermath = Aftermath(wake=(fence.run_id,)) + self._close(connection, [fence.run_id])
                self._do(connection, self.statements.forget_rows["step"], {"ids": [fence.run_id]})
                self._do(connection, self.statements.new_arguments, {"at_id": fence.run_id, "arguments": arguments})
                return aftermath

        return link.run(over, patience)


def _of_wait(step_id: str, wait: NewWait) -> dict[str, Any]:
    return {f"wait_{name}": value for name, value in vars(wait).items()} | {"wait_step_id": step_id}
