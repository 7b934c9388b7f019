"""What the holder of a run writes: steps, and the ways in which it gives the run up. All of it fenced."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from sqlalchemy import Connection, Executable
from sqlalchemy.exc import IntegrityError

from .base import SOON, StoreBase, new_token
from .link import Link
from .records import Columns, Fence, StepWrite
from .statements import SETTLING_COLUMNS, STEP_COLUMNS
from .transacting import Execution

__all__ = ["Recording", "new_values"]


def _values_by(columns: Sequence[str]) -> Callable[[StepWrite], dict[str, Any]]:
    """What turns a step into the values of a statement that has these columns of it."""
    names, read = [f"step_{name}" for name in columns], attrgetter(*columns)
    return lambda step: dict(zip(names, read(step), strict=True))


new_values = _values_by(STEP_COLUMNS[1:])
_settling_values = _values_by(SETTLING_COLUMNS)


class Recording(StoreBase):
    """Fenced writes."""

    def record(
        self,
        link: Link,
        fence: Fence,
        step: StepWrite,
        lease_until: int,
        patience: float = 0.0,
        *,
        is_fresh: bool = False,
    ) -> bool:
        """Record a step's outcome (or its start). ``False`` when the fence stopped it. ``is_fresh``: the lease ends
        then already, and need not be written."""
        if step.known:
            return link.run(lambda connection: self._record_known(link, connection, fence, step, lease_until), patience)
        new = self.statements.record_new_if_fresh if is_fresh else self.statements.record_new
        return link.run(lambda connection: self._record_new(connection, new, fence, step, lease_until), patience)

    def _record_new(
        self, connection: Connection, statement: Executable, fence: Fence, step: StepWrite, lease_until: int
    ) -> bool:
        values = new_values(step)
        values["at_id"] = fence.run_id
        values["at_token"] = fence.token
        values["lease_until"] = lease_until
        try:
            return self._count(connection, statement, values) == 1
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
                if self._count(connection, self.statements.fence, at_run) != 1:
                    return False
                self._do(connection, self.statements.update_step, self._settling(fence, step))
            return True
        values = self._settling(fence, step) | at_run
        if self._count(connection, self.statements.record_known, values) == 1:
            return True
        holding = self._has_token(connection, fence.run_id, fence.token)
        return holding and self._status_of(connection, fence.run_id, step.id) == step.status

    def record_within(self, transaction: Execution, fence: Fence, step: StepWrite, lease_until: int) -> bool:
        """Record a step in a transaction of the caller's: ``step.transaction``."""
        at_run = {"at_id": fence.run_id, "at_token": fence.token, "lease_until": lease_until}
        if transaction.execute(self.statements.fence, at_run).rowcount != 1:
            return False
        self._write_steps(transaction, fence, [step])
        return True

    def record_together(
        self, link: Link, fence: Fence, steps: Sequence[StepWrite], lease_until: int, patience: float = 0.0
    ) -> bool:
        """Record steps that are all new as one statement. For a database where an UPDATE can stand in a WITH."""
        values: dict[str, Any] = {"at_id": fence.run_id, "at_token": fence.token, "lease_until": lease_until}
        values["rows"] = json.dumps([self._as_stored(step) for step in steps])
        statement = self.statements.record_together
        assert statement is not None

        def write(connection: Connection) -> bool:
            try:
                return self._count(connection, statement, values) == len(steps)
            except IntegrityError:  # as above: this was done, and the answer was lost
                return self._status_of(connection, fence.run_id, steps[0].id) is not None

        return link.run(write, patience)

    def _as_stored(self, step: StepWrite) -> dict[str, Any]:
        """A step's values as the database has them: what is sealed is sealed."""
        row = {}
        for name in STEP_COLUMNS[1:]:
            write = self.tables.step.c[name].type.bind_processor(self.engine.dialect)
            value = getattr(step, name)
            row[name] = value if write is None else write(value)
        return row

    def _write_steps(self, transaction: Execution, fence: Fence, steps: Iterable[StepWrite]) -> None:
        """Steps, in a transaction that has fenced already."""
        new = [new_values(step) | {"step_run_id": fence.run_id} for step in steps if not step.known]
        known = [self._settling(fence, step) for step in steps if step.known]
        if new:
            transaction.execute(self.statements.insert_step, new)
        if known:
            transaction.execute(self.statements.update_step, known)

    def own_outcome(self, link: Link, fence: Fence, step_id: str) -> Columns | None:
        """A step's status and result as they are recorded now: to learn the outcome of a commit that gave no answer."""
        return link.run(lambda at: self._row(at, self.statements.own_outcome, at_id=fence.run_id, at_step=step_id))

    def recorded_input(self, link: Link, run_id: str, step_id: str) -> Columns | None:
        """What a step was given when it was recorded."""
        return link.run(lambda at: self._row(at, self.statements.recorded_input, at_id=run_id, at_step=step_id))

    def _settling(self, fence: Fence, step: StepWrite) -> dict[str, Any]:
        return _settling_values(step) | {"at_id": fence.run_id, "at_step": step.id}

    def _status_of(self, connection: Connection, run_id: str, step_id: str) -> str | None:
        row = self._row(connection, self.statements.own_step, at_id=run_id, at_step=step_id)
        return None if row is None else str(row["status"])

    # -------------------------------------------------------------- hand-offs

    @staticmethod
    def _suspension(
        fence: Fence,
        *,
        wake_at: int | None,
        due_at: int | None,
        waiting_on: str,
        published: bool = False,
        quorum: int | None = None,
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
            "quorum": quorum,
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
            if self._do(connection, self.statements.pause, values).rowcount == 1:
                return True
            return self._has_token(connection, fence.run_id, token)

        return link.run(park, patience)

    def is_held(self, link: Link, fence: Fence) -> bool:
        """Whether the run was paused, or is to be cancelled, and nobody else has had it since."""
        values = {"at_id": fence.run_id, "at_token": fence.token}
        return link.run(lambda connection: self._do(connection, self.statements.held_by, values).first() is not None)

    def hand_back(
        self, link: Link, fence: Fence, steps: Iterable[StepWrite], marks: Mapping[str, int], patience: float = 0.0
    ) -> tuple[str, str] | None:
        """Record what came of the steps that were under way when the run was stopped, and let it go.

        Its status, which is ``suspended`` where it is to go on at once, and what it waits for. ``None``: another worker
        has it.
        """
        token, outcomes = new_token(), list(steps)
        at_run = {"at_id": fence.run_id}

        def give(connection: Connection) -> tuple[str, str] | None:
            with link.atomic(connection):
                values = at_run | {"at_token": fence.token, "token": token, "due_in": SOON}
                if self._count(connection, self.statements.hand_back, values) == 1:
                    self._write_late(connection, fence, outcomes)
                    seen = [{**at_run, "at_step": step, "place": place} for step, place in marks.items()]
                    if seen:
                        self._do(connection, self.statements.mark_seen, seen)
                row = self._row(connection, self.statements.held_by, **at_run, at_token=token)
                return None if row is None else (row["status"], row["waiting_on"] or "")

        return link.run(give, patience)

    def _write_late(self, connection: Connection, fence: Fence, steps: list[StepWrite]) -> None:
        """Steps, some of which an earlier try may have recorded whose answer was lost."""
        new = {"at_id": fence.run_id, "ids": [step.id for step in steps if not step.known]}
        there = set(self._do(connection, self.statements.step_ids, new).scalars())
        self._write_steps(self._on(connection), fence, [step for step in steps if step.id not in there])
