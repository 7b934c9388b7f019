"""Starting a run, and taking it: the two operations that decide who may execute it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection

from ..core.replay import Record
from ..errors import ConfigurationError, StartConflict
from ..statuses import FINISHED
from .base import Execute, new_token
from .lines import Line, Lines
from .link import Link
from .records import Claim, Columns, Fence, NewRun, NotClaimed, Outcome, Parent

__all__ = ["Starting"]


class Starting(Lines):
    """Starts and claims."""

    def start(self, link: Link, run: NewRun, patience: float = 0.0) -> bool:
        """Record a run. ``False`` where the same start was made before; ``StartConflict`` where another was."""
        values = self._pending_values(run)

        inserted = link.run(lambda connection: self._insert(link, connection, run, values), patience)
        return inserted or link.run(
            lambda connection: self._is_own_start(self._on(connection).execute, run, values["token"])
        )

    def start_within(self, execute: Execute, run: NewRun) -> bool:
        """The same by a connection in a transaction of the caller's."""
        values = self._pending_values(run)
        return self._insert_both(execute, run, values) or self._is_own_start(execute, run, values["token"])

    def is_started(self, link: Link, run_id: str) -> bool:
        """Whether there is a run of this id."""
        return bool(self._rows(link, self.statements.started, {"at_id": run_id}))

    def _pending_values(self, run: NewRun) -> dict[str, Any]:
        return self._start_values(run) | {
            "status": "pending",
            "token": new_token(),
            "waiting_on": "a worker",
            "due_in": run.due_in,
            "wake_in": run.wake_in,
            "passes": 0,
            "begins": 0,
            "worker": None,
            "code_version": None,
        }

    def _insert_both(self, execute: Execute, run: NewRun, values: Mapping[str, Any]) -> bool:
        """The run and its input, and with them that it has had the event which starts it, and who has started it."""
        inserted: bool = execute(self.statements.insert_run, values).rowcount == 1
        if inserted:
            execute(self.statements.insert_input, values)
            if run.event is not None:
                execute(self.statements.take, {"at_id": run.id, "event": run.event, "of_step": None})
            self._note(execute, run.id, run.deed)
        return inserted

    def start_claimed(
        self, link: Link, run: NewRun, worker: str, lease: int, code_version: str | None, patience: float = 0.0
    ) -> Claim | None:
        """Record a run whose message came without a row, and take it at once."""
        token = new_token()
        values = self._start_values(run) | {
            "status": "running",
            "token": token,
            "waiting_on": None,
            "due_in": lease,
            "wake_in": None,
            "passes": 1,
            "begins": 1,
            "worker": worker,
            "code_version": code_version,
        }

        def insert(connection: Connection) -> Claim | None:
            self._insert(link, connection, run, values)  # or an earlier try did, whose answer was lost
            row = self._row(connection, self.statements.claimed, at_id=run.id, token=token)
            return None if row is None else self._make_claim(run.id, token, row, [])

        return link.run(insert, patience)

    def _start_values(self, run: NewRun) -> dict[str, Any]:
        return {
            "id": run.id,
            "task": run.task,
            "input_hash": run.input_hash,
            "arguments": run.arguments,
            "message": run.message,
            "retries": run.retries,
            "parent_id": run.parent.run_id if run.parent else None,
            "parent_step": run.parent.step_id if run.parent else None,
            "kind": run.kind,
            "origin_id": run.origin.run_id if run.origin else None,
            "origin_step": run.origin.step_id if run.origin else None,
            "sends": 1,
        }

    def _insert(self, link: Link, connection: Connection, run: NewRun, values: Mapping[str, Any]) -> bool:
        if self.statements.start_at_once is not None and run.event is None and run.deed is None:
            return self._count(connection, self.statements.start_at_once, values) == 1
        with link.atomic(connection):
            return self._insert_both(self._on(connection).execute, run, values)

    def _is_own_start(self, execute: Execute, run: NewRun, token: int) -> bool:
        """Whether the row that is there was made by an earlier try of this very start."""
        row = execute(self.statements.started, {"at_id": run.id}).first()
        if row is None:
            return False
        task, input_hash, its_token, *origin = row
        same_copy = run.origin is None or list(run.origin) == origin
        if (task, input_hash) == (run.task, run.input_hash) and same_copy:
            return bool(its_token == token)
        other = "other arguments" if input_hash != run.input_hash else "another origin"
        if task != run.task:
            other = f"task {task}"
        raise StartConflict(
            f"a run {run.id!r} was started before with {other}, so it was not started again as {run.task}. "
            "One id is one piece of work: use another task_id, or the same arguments."
        )

    # ------------------------------------------------------------------ claim

    def arguments(self, link: Link, run_id: str, patience: float = 0.0) -> str | None:
        """What a run was started with."""
        values = {"ids": [run_id]}
        row = link.run(lambda connection: self._do(connection, self.statements.inputs, values).first(), patience)
        return None if row is None else str(row.arguments)

    def claim(
        self,
        link: Link,
        run_id: str,
        *,
        worker: str,
        lease: int,
        slack: int = 0,
        code_version: str | None = None,
        run_timeout: int | None = None,
        line: Line | None = None,
        patience: float = 0.0,
    ) -> Claim | Outcome | NotClaimed:
        """Take a run that is due, or the delivery of a finished one; else say why not.

        ``line``: it needs a share of a resource, and stands in line for that if there is none.
        """
        token = new_token()
        values = {
            "at_id": run_id,
            "token": token,
            "worker": worker,
            "lease": lease,
            "slack": slack,
            "code_version": code_version,
            "run_timeout": run_timeout,
        }

        def take(connection: Connection) -> Claim | Outcome | NotClaimed:
            if line is None:
                with link.hurrying(connection):
                    return self._claim(link, connection, values)
            with link.atomic(connection):
                return self._queued(connection, values, line) or self._claim(link, connection, values)

        try:
            return link.run(take, patience)
        except ConfigurationError as error:
            # What is stored can't be read here. If the run was taken all the same, it is set aside.
            self.set_aside(link, Fence(run_id, token), f"codec: {error}")
            return NotClaimed("paused", why=str(error))

    def _claim(self, link: Link, connection: Connection, values: Mapping[str, Any]) -> Claim | Outcome | NotClaimed:
        statements, run_id, token = self.statements, values["at_id"], values["token"]
        row: Columns | None
        if self.dialect.update_returning:
            row = self._row(connection, statements.claim, **values)
        else:
            taken = self._count(connection, statements.claim, values)
            row = self._row(connection, statements.claimed, at_id=run_id, token=token) if taken else None
        if row is None:
            other = self._not_claimable(connection, values)
            if other is not None:
                return other
            row = self._row(connection, statements.claimed, at_id=run_id, token=token)
            if row is None:
                return NotClaimed("running")
        if row["passes"] == 1 and not row["has_steps"]:  # which a copy of another run has from its beginning
            return self._make_claim(run_id, token, row, ())
        with link.lingering():
            steps = self._do(connection, statements.history, {"at_id": run_id}, Record._make).rows
        return self._make_claim(run_id, token, row, steps)

    def _not_claimable(self, connection: Connection, values: Mapping[str, Any]) -> Outcome | NotClaimed | None:
        """Why the claim found nothing; ``None`` when an earlier try of this very claim took the run."""
        row = self._row(connection, self.statements.outcome, at_id=values["at_id"])
        if row is None:
            return NotClaimed(None)
        if row["token"] == values["token"]:
            return None
        if row["status"] in FINISHED:
            if self._count(connection, self.statements.claim_delivery, values):
                fence = Fence(values["at_id"], values["token"])
                return Outcome(fence, row["task"], row["status"], row["result"], row["error"])
            return NotClaimed(row["status"])
        early_by = max(0, (row["wake_at"] or 0) - row["now"])
        return NotClaimed(row["status"], early_by)

    @staticmethod
    def _make_claim(run_id: str, token: int, row: Columns, steps: Iterable[Record]) -> Claim:
        return Claim(
            fence=Fence(run_id, token),
            now=int(row["now"]),
            lease_until=row["due_at"],
            created_at=row["created_at"],
            started_at=row["started_at"],
            retries=row["retries"],
            recoveries=row["recoveries"],
            passes=row["passes"],
            wake_at=row["wake_at"],
            message=row["message"],
            arguments=row["arguments"],
            parent=Parent(row["parent_id"], row["parent_step"]) if row["parent_id"] else None,
            cancelling=row["cancelling"],
            generation=row["generation"] or 0,
            restarts=row["restarts"] or 0,
            deadline_at=row["deadline_at"],
            reported=row["reported"],
            history={record.id: record for record in steps},
        )
