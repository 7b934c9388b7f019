"""Lines for a resource: how many runs of a task, or of one key, are executed at once.

A share of a resource is held by being executed, and by nothing else: there is no count that a crash could leave wrong.
A worker that takes a run counts, alone behind the resource's gate, who is at work and who came before; where the shares
are gone the run gets into the line, without a worker. Whoever gives a run up afterwards lets in the first in the line.
That is a message like any other. If it is not sent, because the worker died right then, the sweeper finds the line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from .base import SOON, new_token
from .gates import Gated
from .link import Link
from .records import NotClaimed

__all__ = ["Line", "Lines"]


@dataclass(frozen=True)
class Line:
    """A resource, and how many runs have a share of it at once."""

    resource: str
    limit: int


class Lines(Gated):
    """Standing in line, and being let in."""

    def _queued(self, connection: Connection, values: Mapping[str, Any], line: Line) -> NotClaimed | None:
        """Get a run into the line if it can't have a share now. In a transaction, which takes it otherwise."""
        self._shut(connection, "line", line.resource)
        at_run = {"at_id": values["at_id"]}
        row = self._row(
            connection, self.statements.in_line, **at_run, run_timeout=values["run_timeout"], slack=values["slack"]
        )
        if row is None or row["status"] not in ("pending", "suspended") or not row["due"]:
            return None
        self._do(connection, self.statements.share, {**at_run, "resource": line.resource})
        mine = row["queued_at"] or row["now"] + 1
        ahead = {**at_run, "at_resource": line.resource, "at_queued": mine}
        if self._do(connection, self.statements.ahead, ahead).scalar() < line.limit:
            return None
        if row["deadline_at"] is not None and row["deadline_at"] <= row["now"]:
            return None  # it is only to be told that its time is up
        waiting_on = f"its turn: {line.limit} runs of {line.resource} are executed at once"
        # A new token: whoever has just sent its message is not to mark that, as the message has been dropped.
        queued = {"due_at": row["deadline_at"], "waiting_on": waiting_on[:500], "token": new_token()}
        self._do(connection, self.statements.queue, {**at_run, **queued})
        return NotClaimed("queued", why=f"({waiting_on})")

    def let_in(self, link: Link, line: Line) -> list[str]:
        """Let in as many from a line as there are shares; the runs whose message is to be sent."""

        def let_in(connection: Connection) -> list[str]:
            at_resource = {"at_resource": line.resource}
            with link.atomic(connection):
                self._shut(connection, "line", line.resource)
                shares = line.limit - self._do(connection, self.statements.at_work, at_resource).scalar()
                if shares <= 0:
                    return []
                first = self._do(connection, self.statements.first_in_line, {**at_resource, "limit": shares}).rows
                ids = [row.id for row in first if row.due_at is None or row.due_at == row.deadline_at]
                if ids:
                    self._do(connection, self.statements.let_in, {"ids": ids, "due_in": SOON})
                return ids

        return link.run(let_in)

    def lines(self, link: Link, limit: int) -> list[tuple[str, str]]:
        """The resources that some run stands in line for, each with the task of one."""
        return [(row.resource, row.task) for row in self._rows(link, self.statements.lines, {"limit": limit})]
