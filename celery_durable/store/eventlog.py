"""Reading the events back, and forgetting the old ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection

from .base import StoreBase
from .link import Link
from .records import Columns

__all__ = ["EventLog", "LoggedEvent"]


@dataclass
class LoggedEvent:
    """An event's row and who took it."""

    row: Columns
    woke: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)
    woke_total: int = 0
    started_total: int = 0


class EventLog(StoreBase):
    """The log of events."""

    def logged_event(self, link: Link, event_id: str) -> LoggedEvent | None:
        """One event, with all who took it."""
        statement = self.statements.event_log.where(self.tables.event.c.id == event_id)
        found = link.run(lambda connection: self._logged(connection, statement, most=2**31 - 1))
        return found[0] if found else None

    def logged_events(
        self,
        link: Link,
        *,
        name: str | None,
        key: str | None,
        since: int | None,
        before_seq: int | None,
        limit: int,
        most: int,
    ) -> list[LoggedEvent]:
        """Events, newest first; of those who took one at most so many."""
        event = self.tables.event
        statement = self.statements.event_log.order_by(event.c.seq.desc()).limit(limit)
        if name is not None:
            if name.endswith("*"):
                statement = statement.where(event.c.name.startswith(name[:-1], autoescape=True))
            else:
                statement = statement.where(event.c.name == name)
        if key is not None:
            statement = statement.where(event.c.key == key)
        if since is not None:
            statement = statement.where(event.c.emitted_at >= since)
        if before_seq is not None:
            statement = statement.where(event.c.seq < before_seq)
        return link.run(lambda connection: self._logged(connection, statement, most))

    def _logged(self, connection: Connection, statement: Any, most: int) -> list[LoggedEvent]:
        found = {row["seq"]: LoggedEvent(row) for row in connection.execute(statement).mappings()}
        if found:
            takers = self._do(connection, self.statements.takers_of, {"events": list(found), "most": most}).rows
            for taker in takers:
                logged = found[taker.event]
                if taker.is_wait:
                    logged.woke.append(taker.run_id)
                    logged.woke_total = taker.total
                else:
                    logged.started.append(taker.run_id)
                    logged.started_total = taker.total
        return list(found.values())

    def forget_events(self, link: Link, retention: int, limit: int) -> int:
        """Delete events that were dispatched and are older than that; how many were looked at and deleted.

        The oldest come first by their number, so that no index is kept for this alone.
        """

        def forget(connection: Connection) -> int:
            rows = self._do(connection, self.statements.oldest_events, {"limit": limit}).rows
            old = [row.seq for row in rows if row.dispatched_at is not None and row.emitted_at < row.now - retention]
            if old:
                with link.atomic(connection), link.lingering():
                    self._do(connection, self.statements.forget_events, {"events": old})
                    self._do(connection, self.statements.forget_takers, {"events": old})
            return len(old)

        return link.run(forget)
