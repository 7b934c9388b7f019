"""What the sweeper, the keeper and people do to runs from outside, and reading them."""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, Executable

from ..errors import ConfigurationError
from .base import StoreBase, new_token
from .link import Link
from .records import Columns, Due, Fence

__all__ = ["Upkeep", "due_of"]

_LATER = 3_600_000_000
_AT_ONCE = 500
"""How many runs a statement names."""


class Upkeep(StoreBase):
    """Everything that is not done by the holder of a run."""

    def extend(self, link: Link, fences: Iterable[Fence], lease: int) -> None:
        """Heartbeat: these runs are still being executed."""
        rows = [{"at_id": fence.run_id, "at_token": fence.token, "lease": lease} for fence in fences]
        if rows:
            link.run(lambda connection: self._do(connection, self.statements.extend, rows))

    def mark_delivered(self, link: Link, ended: Iterable[Fence]) -> None:
        """The results of these runs have been handed to Celery, callbacks and all; not those of a later end, after a
        retry."""
        fences = list(ended)
        if fences:
            link.run(lambda connection: self._do(connection, self.statements.delivered, _named(fences)))

    def mark_told(self, link: Link, run_id: str) -> None:
        """Celery has refused the message of a run that has ended, and told its users."""
        row = link.run(lambda connection: self._row(connection, self.statements.outcome, at_id=run_id))
        if row is not None:
            self.mark_delivered(link, [Fence(run_id, row["token"])])

    def what_is_due(self, link: Link) -> tuple[bool, bool]:
        """Whether there are runs that time has come for, and events whose dispatch is missing."""
        (row,) = self._rows(link, self.statements.what_is_due, {})
        return bool(row.runs), bool(row.events)

    def what_is_free(self, link: Link) -> tuple[bool, bool]:
        """Whether there are runs that stand in line, and locks that nobody holds and somebody waits for."""
        (row,) = self._rows(link, self.statements.what_is_free, {})
        return bool(row.lines), bool(row.locks)

    def due(self, link: Link, limit: int, passed_over: int = 0) -> list[Due]:
        """The runs that time has come for, longest due first, with what is needed to send them. The first of them, as
        many as have been ``passed_over``, are not wanted."""
        return self._read_due(link, self.statements.due, {"limit": limit, "passed_over": passed_over})

    def untaken(self, link: Link, fences: Iterable[Fence]) -> set[str]:
        """Those of these runs that nobody has taken since."""
        found: set[str] = set()
        wanted = list(fences)
        for start in range(0, len(wanted), _AT_ONCE):
            values = _named(wanted[start : start + _AT_ONCE])
            found.update(row.id for row in self._rows(link, self.statements.untaken, values))
        return found

    def _read_due(
        self, link: Link, statement: Executable, values: dict[str, Any], at_once: Executable | None = None
    ) -> list[Due]:
        """``at_once``: the same with what the runs were started with."""

        def look(connection: Connection) -> list[Due]:
            with suppress(ConfigurationError):  # one of them can't be read: which one is found out below
                if at_once is not None:
                    rows = self._do(connection, at_once, values).rows
                    return [due_of(row, row.arguments, row.message) for row in rows if row.message is not None]
            rows = self._do(connection, statement, values).rows
            if not rows:
                return []
            given = self._inputs(link, connection, rows)
            return [due_of(row, *given[row.id]) for row in rows if row.id in given]

        return link.run(look)

    def _inputs(self, link: Link, connection: Connection, rows: Iterable[Any]) -> dict[str, tuple[str, str]]:
        """What runs were started with. One that can't be read is set aside, and stops no other."""

        def read(ids: list[str]) -> dict[str, tuple[str, str]]:
            found = self._do(connection, self.statements.inputs, {"ids": ids}).rows
            return {item.run_id: (item.arguments, item.message) for item in found}

        try:
            return read([row.id for row in rows])
        except ConfigurationError:
            given: dict[str, tuple[str, str]] = {}
            for row in rows:
                try:
                    given |= read([row.id])
                except ConfigurationError as error:
                    fence = Fence(row.id, row.token)
                    if not self.set_aside(link, fence, f"codec: {error}"):  # finished: its result waits for the key
                        self.mark_sent(link, [(fence, _LATER, True)])
            return given

    def mark_sent(self, link: Link, marks: Iterable[tuple[Fence, int, bool]]) -> None:
        """Runs whose message is on its way, each with how long after its time it is looked at again."""
        alike: defaultdict[tuple[int, bool], list[Fence]] = defaultdict(list)
        for fence, due_in, sent in marks:
            alike[due_in, sent].append(fence)
        for (due_in, sent), fences in alike.items():
            values = _named(fences) | {"due_in": due_in, "sent": int(sent)}
            self._changed(link, self.statements.mark_sent, values)

    def hold_calls(self, link: Link, run_ids: list[str], due_in: int) -> None:
        """A worker has these ordinary tasks: those that were called are not to be looked after for a while."""
        link.run(
            lambda connection: self._do(connection, self.statements.hold_calls, {"ids": run_ids, "due_in": due_in})
        )

    def deaths(self, link: Link, run_id: str) -> tuple[int, int]:
        """How many workers have died executing this run without recording a step, with the one that is known
        to have died now; and how many steps are recorded."""
        row = link.run(lambda connection: self._row(connection, self.statements.deaths, at_id=run_id))
        if row is None:
            return 1, 0
        return (row["recoveries"] if row["steps"] == row["progress"] else 0) + 1, row["steps"]

    def recover(self, link: Link, fence: Fence, *, pause_because: str | None = None) -> bool:
        """Take a run away from a worker that died; with a reason, park it for a person instead."""
        deaths, steps = self.deaths(link, fence.run_id)
        values = {
            "at_id": fence.run_id,
            "at_token": fence.token,
            "token": new_token(),
            "status": "suspended" if pause_because is None else "paused",
            "deaths": deaths,
            "steps": steps,
            "waiting_on": "a worker, its last one died" if pause_because is None else pause_because[:500],
        }
        return self._handed_on(link, self.statements.recover, values)

    def running_under(self, link: Link, run_id: str, worker: str) -> Fence | None:
        """The fence of a run, if this worker holds it."""
        row = link.run(
            lambda connection: self._row(connection, self.statements.running_under, at_id=run_id, at_worker=worker)
        )
        return None if row is None else Fence(run_id, row["token"])

    def unregistered(self, link: Link, run_id: str, *, delay: int, pause_because: str | None, waiting_on: str) -> bool:
        """A worker got a run whose task it does not know: try elsewhere later, or park it for a person."""
        values = {
            "at_id": run_id,
            "token": new_token(),
            "status": "suspended" if pause_because is None else "paused",
            "delay": delay,
            "waiting_on": (pause_because or waiting_on)[:500],
        }
        return self._handed_on(link, self.statements.unregistered, values)

    def reconsider(self, link: Link, tasks: Iterable[str]) -> int:
        """Let runs that were parked for their code go on: this worker may bring the code that fits."""
        names = list(tasks)
        if not names:
            return 0
        return link.run(lambda connection: self._do(connection, self.statements.reconsider, {"tasks": names}).rowcount)

    def skip_wait(self, link: Link, run_id: str) -> None:
        """Eager mode: what the run waits for is over now."""

        def skip(connection: Connection) -> None:
            self._do(connection, self.statements.skip_wait, {"at_id": run_id})
            self._do(connection, self.statements.skip_waiting_steps, {"at_id": run_id})

        link.run(skip)

    def take_lease(self, link: Link, name: str, holder: str, lease: int) -> bool:
        """Take or keep a named lease."""
        values = {"at_name": name, "holder": holder, "lease": lease}

        def take(connection: Connection) -> bool:
            if self._count(connection, self.statements.lease_take, values):
                return True
            return self._count(connection, self.statements.lease_make, values) == 1

        return link.run(take)

    def lease_left(self, link: Link, name: str) -> int:
        """For how many microseconds somebody has a lease; none, or less, where it can be taken."""
        left = link.run(lambda connection: self._do(connection, self.statements.lease_left, {"at_name": name}).scalar())
        return 0 if left is None else int(left)

    def drop_lease(self, link: Link, name: str, holder: str) -> None:
        self._changed(link, self.statements.lease_drop, {"at_name": name, "holder": holder})

    def identity(self, link: Link) -> str:
        """What tells this database from every other, made when it is asked for first."""

        def read(connection: Connection) -> str:
            self._do(connection, self.statements.mark, {"mark": secrets.token_hex(16)})
            return str(self._do(connection, self.statements.marked, {}).scalar())

        return link.run(read)

    # ---------------------------------------------------------------- reading

    def get(self, link: Link, run_id: str) -> tuple[Columns, Sequence[Columns]] | None:
        """A run's row and its steps' rows."""

        def read(connection: Connection) -> tuple[Columns, Sequence[Columns]] | None:
            row = self._row(connection, self.statements.get_run, at_id=run_id)
            if row is None:
                return None
            return row, self._do(connection, self.statements.get_steps, {"at_id": run_id}).mappings()

        return link.run(read)

    def outline(self, link: Link, run_id: str) -> tuple[Columns, Sequence[Any]] | None:
        """A run's row, and of its steps' rows all but the large values."""

        def read(connection: Connection) -> tuple[Columns, Sequence[Any]] | None:
            row = self._row(connection, self.statements.get_run, at_id=run_id)
            if row is None:
                return None
            return row, self._do(connection, self.statements.outline_steps, {"at_id": run_id}).rows

        return link.run(read)

    def some_steps(self, link: Link, run_id: str, ids: Iterable[str]) -> Sequence[Columns]:
        """The rows of these steps of a run, of those that it has."""
        values = {"at_id": run_id, "ids": list(ids)}
        return link.run(lambda connection: self._do(connection, self.statements.some_steps, values).mappings())

    def children(self, link: Link, run_id: str) -> list[str]:
        """The runs that a run has called."""
        return [row.id for row in self._rows(link, self.statements.get_children, {"at_id": run_id})]

    def now(self, link: Link) -> int:
        return int(link.run(lambda connection: self._do(connection, self.statements.now, {}).scalar()))


def _named(fences: Iterable[Fence]) -> dict[str, Any]:
    """In the order of their ids, in which whoever changes several runs at once locks them."""
    pairs = sorted(tuple(fence) for fence in fences)
    return {"ids": [run_id for run_id, _ in pairs], "tokens": [token for _, token in pairs]}


def due_of(row: Any, arguments: str, message: str) -> Due:
    """A run whose message is to be sent, of its row and what it was started with."""
    return Due(
        fence=Fence(row.id, row.token),
        task=row.task,
        status=row.status,
        due_at=row.due_at,
        wake_at=row.wake_at,
        sends=row.sends,
        retries=row.retries,
        passes=row.passes,
        worker=row.worker,
        kind=row.kind,
        now=int(row.now),
        arguments=arguments,
        message=message,
    )
