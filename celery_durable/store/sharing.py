"""What runs share, and what is said of one while it goes on: ``step.state``, ``step.set_progress``, the logger."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from .link import Link
from .recording import Recording
from .records import Columns, Fence, LogLine, StateChange, StepWrite

__all__ = ["Sharing"]


class Sharing(Recording):
    """State, progress and logs."""

    # ------------------------------------------------------------------- state

    def read_state(self, link: Link, task: str, key: str) -> str | None:
        """A value of a task's state, encoded."""
        values = {"at_task": task, "at_key": key}
        found: str | None = link.run(lambda at: self._do(at, self.statements.read_state, values).scalar())
        return found

    def states_of(self, link: Link, task: str) -> Sequence[Columns]:
        """All of a task's state."""
        return link.run(
            lambda connection: self._do(connection, self.statements.states_of, {"at_task": task}).mappings()
        )

    def change_state(
        self,
        link: Link,
        fence: Fence,
        step: StepWrite,
        task: str,
        key: str,
        change: Callable[[str | None], StateChange],
        lease_until: int,
        patience: float = 0.0,
    ) -> StepWrite | None:
        """Change a value and record the step that does, in one transaction. ``change`` is given the value that is
        there, and nobody else can change it meanwhile. The step as it is recorded; ``None``: the lease is lost."""
        at_key = {"at_task": task, "at_key": key}

        def work(connection: Connection) -> StepWrite | None:
            try:
                with link.atomic(connection):
                    at_run = {"at_id": fence.run_id, "at_token": fence.token, "lease_until": lease_until}
                    if self._count(connection, self.statements.fence, at_run) != 1:
                        return None
                    self._do(connection, self.statements.lock_state, at_key)
                    new = change(self._do(connection, self.statements.read_state, at_key).scalar())
                    done = step._replace(result=new.result)
                    self._write_steps(connection, fence, [done])
                    self._put(connection, at_key, new)
                return done
            except IntegrityError:  # of the step: an earlier try, whose answer was lost, did this
                row = self._row(connection, self.statements.own_outcome, at_id=fence.run_id, at_step=step.id)
                return None if row is None else step._replace(result=row["result"])

        return link.run(work, patience)

    def _put(self, connection: Connection, at_key: dict[str, str], new: StateChange) -> None:
        if new.value is None:
            self._do(connection, self.statements.drop_state, at_key)
        elif new.keeps_ttl:
            self._do(connection, self.statements.count_state, at_key | {"value": new.value})
        else:
            self._do(connection, self.statements.write_state, at_key | {"value": new.value, "ttl": new.ttl})

    def forget_states(self, link: Link, limit: int) -> int:
        """Delete values whose time is over; how many were found."""

        def forget(connection: Connection) -> int:
            rows = self._do(connection, self.statements.old_states, {"limit": limit}).rows
            if rows:
                old = [{"at_task": row.task, "at_key": row.key} for row in rows]
                self._do(connection, self.statements.forget_state, old)
            return len(rows)

        return link.run(forget)

    # -------------------------------------------------------------------- said

    def report(self, link: Link, fence: Fence, text: str, lease_until: int, patience: float = 0.0) -> bool:
        """Keep what ``step.set_progress`` says. ``False``: the lease is lost."""
        values = {"at_id": fence.run_id, "at_token": fence.token, "reported": text, "lease_until": lease_until}
        return link.run(lambda connection: self._count(connection, self.statements.report, values) == 1, patience)

    def keep_log(self, link: Link, run_id: str, lines: Iterable[LogLine]) -> None:
        """Keep what a run's logger was told. A line that is said again in the same place is kept once."""
        rows = [{"log_run": run_id} | {f"log_{name}": value for name, value in vars(line).items()} for line in lines]
        if rows:
            link.run(lambda connection: self._do(connection, self.statements.insert_log, rows))

    def log_of(self, link: Link, run_id: str) -> list[LogLine]:
        """What a run's logger was told, in the order of time."""
        rows = self._rows(link, self.statements.read_log, {"at_id": run_id})
        return [LogLine(**row._asdict()) for row in rows]
