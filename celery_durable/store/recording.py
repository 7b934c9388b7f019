"""What the holder of a run writes: steps, and the ways in which it gives the run up. All of it fenced."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from ..core.replay import Record
from .base import StoreBase, new_token
from .link import Link
from .records import Fence, Overtaken, StepWrite
from .statements import SETTLING_COLUMNS, STEP_COLUMNS

__all__ = ["Recording", "TakenBack"]


class TakenBack(Exception):
    """Ends a transaction without an effect, and carries what was found out in it."""

    def __init__(self, found: Overtaken) -> None:
        super().__init__(found)
        self.found = found


class Recording(StoreBase):
    """Fenced writes."""

    def record(self, link: Link, fence: Fence, step: StepWrite, lease_until: int, patience: float = 0.0) -> bool:
        """Record a step's outcome (or its start). ``False`` when the fence stopped it."""
        write = self._record_known if step.known else self._record_new
        return link.run(lambda connection: write(link, connection, fence, step, lease_until), patience)

    def _record_new(self, link: Link, connection: Connection, fence: Fence, step: StepWrite, lease_until: int) -> bool:
        values = self._step_values(step, STEP_COLUMNS[1:]) | {
            "at_id": fence.run_id,
            "at_token": fence.token,
            "lease_until": lease_until,
        }
        try:
            return connection.execute(self.statements.record_new, values).rowcount == 1
        except IntegrityError:
            # Only the holder of the token gets past the fence, and it knows all older rows: so this
            # row is its own, from a try whose answer was lost.
            return self._status_of(connection, fence.run_id, step.id) is not None

    def _record_known(
        self, link: Link, connection: Connection, fence: Fence, step: StepWrite, lease_until: int
    ) -> bool:
        at_run = {"at_id": fence.run_id, "at_token": fence.token, "lease_until": lease_until}
        if self.statements.record_known is None:
            with link.atomic(connection):
                if connection.execute(self.statements.fence, at_run).rowcount != 1:
                    return False
                connection.execute(self.statements.update_step, self._settling(fence, step))
            return True
        values = self._settling(fence, step) | at_run
        if connection.execute(self.statements.record_known, values).rowcount == 1:
            return True
        holding = self._has_token(connection, fence.run_id, fence.token)
        return holding and self._status_of(connection, fence.run_id, step.id) == step.status

    def record_within(self, connection: Connection, fence: Fence, step: StepWrite, lease_until: int) -> bool:
        """Record a step in a transaction of the caller's: ``step.transaction``."""
        at_run = {"at_id": fence.run_id, "at_token": fence.token, "lease_until": lease_until}
        if connection.execute(self.statements.fence, at_run).rowcount != 1:
            return False
        self._write_step(connection, fence, step)
        return True

    def step_status(self, link: Link, fence: Fence, step_id: str, patience: float = 0.0) -> str | None:
        """How a step is recorded now: to learn the outcome of a commit that gave no answer."""
        return link.run(lambda connection: self._status_of(connection, fence.run_id, step_id), patience)

    def _write_step(self, connection: Connection, fence: Fence, step: StepWrite) -> None:
        if step.known:
            connection.execute(self.statements.update_step, self._settling(fence, step))
        else:
            values = self._step_values(step, STEP_COLUMNS[1:]) | {"step_run_id": fence.run_id}
            connection.execute(self.statements.insert_step, values)

    def _settling(self, fence: Fence, step: StepWrite) -> dict[str, Any]:
        return self._step_values(step, SETTLING_COLUMNS) | {"at_id": fence.run_id, "at_step": step.id}

    @staticmethod
    def _step_values(step: StepWrite, columns: Iterable[str]) -> dict[str, Any]:
        return {f"step_{name}": getattr(step, name) for name in columns}

    def _status_of(self, connection: Connection, run_id: str, step_id: str) -> str | None:
        row = self._row(connection, self.statements.own_step, at_id=run_id, at_step=step_id)
        return None if row is None else str(row["status"])

    # -------------------------------------------------------------- hand-offs

    def suspend(
        self,
        link: Link,
        fence: Fence,
        *,
        step: StepWrite | None,
        reset: Iterable[str] = (),
        waits: Iterable[str] = (),
        on_locked: Callable[[], None] | None = None,
        patience: float = 0.0,
        **suspension: Any,
    ) -> bool | Overtaken:
        """Park the run. ``on_locked`` is called while the run's row is locked and still ours.

        ``waits`` are steps that were registered to be settled from outside, and ``Overtaken`` is that one was.
        """
        values = self._suspension(fence, **suspension)
        ids, waiting = list(reset), list(waits)

        def park(connection: Connection) -> bool | Overtaken:
            try:
                with link.atomic(connection):
                    if connection.execute(self.statements.suspend, values).rowcount != 1:
                        return self._has_token(connection, fence.run_id, values["token"])
                    if waiting:
                        self._check_waits(connection, fence, waiting)
                    if on_locked is not None:
                        on_locked()
                    if step is not None:
                        self._write_step(connection, fence, step)
                    if ids:
                        connection.execute(self.statements.reset_steps, {"at_id": fence.run_id, "ids": ids})
            except TakenBack as undone:
                return undone.found
            return True

        return link.run(park, patience)

    def _check_waits(self, connection: Connection, fence: Fence, waits: list[str]) -> None:
        """Under the lock of the run's row, which an answer takes as well: none of these waits is answered."""
        values = {"at_id": fence.run_id, "ids": waits}
        settled = connection.execute(self.statements.settled_steps, values).all()
        if settled:
            raise TakenBack(Overtaken(tuple(Record(*row) for row in settled)))

    @staticmethod
    def _suspension(
        fence: Fence,
        *,
        wake_at: int | None,
        due_at: int | None,
        waiting_on: str,
        published: bool = False,
        retried: bool = False,
        error: str | None = None,
    ) -> dict[str, Any]:
        return {
            "at_id": fence.run_id,
            "at_token": fence.token,
            "token": new_token(),
            "wake_at": wake_at,
            "due_at": due_at,
            "waiting_on": waiting_on[:500],
            "sends": int(published),
            "retried": int(retried),
            "error": error,
        }

    def pause(self, link: Link, fence: Fence, *, waiting_on: str, error: str | None, patience: float = 0.0) -> bool:
        """Park the run for a person, with the reason."""
        token = new_token()
        values = {
            "at_id": fence.run_id,
            "at_token": fence.token,
            "token": token,
            "waiting_on": waiting_on[:500],
            "error": error,
        }

        def park(connection: Connection) -> bool:
            if connection.execute(self.statements.pause, values).rowcount == 1:
                return True
            return self._has_token(connection, fence.run_id, token)

        return link.run(park, patience)

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
        waits: bool = False,
        patience: float = 0.0,
    ) -> bool:
        """End the run. Its result is then to be delivered within the lease. ``waits``: it has open ones."""
        values = {
            "at_id": fence.run_id,
            "at_token": fence.token,
            "status": status,
            "due_at": now + lease,
            "finished_at": now,
            "result": result,
            "error": error,
        }

        def end(connection: Connection) -> bool:
            if waits:
                with link.atomic(connection):
                    ended = connection.execute(self.statements.finish, values).rowcount == 1
                    if ended:
                        connection.execute(self.statements.drop_waits, {"at_id": fence.run_id})
            else:
                ended = connection.execute(self.statements.finish, values).rowcount == 1
            if ended:
                return True
            row = self._row(connection, self.statements.outcome, at_id=fence.run_id)
            return row is not None and row["token"] == fence.token and row["status"] == status

        return link.run(end, patience)
