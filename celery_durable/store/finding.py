"""Finding runs and counting them, at a cost that does not grow with the table.

A page is found in two steps. First the *places* of runs, which are their times and ids, along an index and to a limit;
where runs of several statuses are wanted, each status has a part of the index, and the newest of all are taken. Then
the rows at these places. What no index knows (a text in an input, a part of what a run waits for) is looked for in the
rows at a number of places, newest first, and not beyond.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, get_args

from sqlalchemy import Column, Connection, Select, exists, func, literal, or_, select, union_all

from ..statuses import FINISHED, RunStatus
from .base import StoreBase
from .link import Link
from .records import Columns
from .statements.finding import COUNTED_AT_MOST

__all__ = ["COUNTED_AT_MOST", "LOOKED_AT_MOST", "LOOKED_INTO_AT_MOST", "Filter", "Finding", "Found", "Place"]

LOOKED_AT_MOST = 20_000
"""Runs that one call looks at, newest first."""
LOOKED_INTO_AT_MOST = 10_000
"""Runs whose texts one call reads, where no index leads to those that are wanted."""
_AT_ONCE = 1_000
_STATUSES: tuple[str, ...] = get_args(RunStatus)
_LIVE = tuple(status for status in _STATUSES if status not in FINISHED)

Place = tuple[int, str]
"""Where a run stands in the order of all: when it was made, and its id."""
_BEGINNING: Place = (2**62, "")


@dataclass(frozen=True)
class Filter:
    """Which runs are meant."""

    statuses: Sequence[str] | None = None
    task: str | None = None
    since: int | None = None
    until: int | None = None
    search: str | None = None
    parent: str | None = None
    waiting_on: str | None = None
    event: str | None = None

    @property
    def looks_into_rows(self) -> bool:
        """Whether no index leads to what is wanted."""
        return self.search is not None or self.waiting_on is not None

    @property
    def meant(self) -> tuple[str, ...]:
        """The statuses that it may hold for: what has ended waits for nothing."""
        among = _STATUSES if self.waiting_on is None else _LIVE
        return tuple(status for status in among if self.statuses is None or status in self.statuses)

    @property
    def branches(self) -> list[tuple[str, ...]]:
        """The parts of an index that it holds for, each by its statuses: all of them where one index has all."""
        if self.parent is not None or self.event is not None or (self.meant == _STATUSES and self.task is None):
            return [self.meant]
        return [(status,) for status in self.meant]


class Found(NamedTuple):
    """Runs, newest first, and the place to go on from; ``None``: there are no more."""

    rows: list[Columns]
    following: Place | None


class Finding(StoreBase):
    """What is asked about many runs."""

    # -------------------------------------------------------------------- find

    def list_runs(self, link: Link, wanted: Filter, *, limit: int, before: Place | None = None) -> Found:
        """Runs, newest first. Where rows are looked into, there may be fewer than asked for, and more to come."""

        def find(connection: Connection) -> Found:
            if wanted.looks_into_rows:
                return self._look_for(connection, wanted, limit, before)
            places = self._places(connection, wanted, limit + 1, before)
            rows = self._rows_at(connection, wanted, places[:limit])
            return Found(rows, places[limit - 1] if len(places) > limit else None)

        return link.run(find)

    def _look_for(self, connection: Connection, wanted: Filter, limit: int, before: Place | None) -> Found:
        rows = self._named(connection, wanted) if before is None else []
        place = before or _BEGINNING
        for places, ended in self._looked_at(connection, wanted, before):
            room = limit - len(rows)
            if not room:
                return Found(rows, place)
            matching = self._rows_at(connection, wanted, places)
            rows += matching[:room]
            if len(matching) > room:
                return Found(rows, (rows[-1]["created_at"], rows[-1]["id"]))
            if ended:
                return Found(rows, None)
            place = places[-1]
        return Found(rows, place)

    def _looked_at(
        self, connection: Connection, wanted: Filter, before: Place | None
    ) -> Iterator[tuple[list[Place], bool]]:
        """The places that one call looks at, and with the last of them that there are no more."""
        for _ in range(LOOKED_INTO_AT_MOST // _AT_ONCE):
            places = self._places(connection, wanted, _AT_ONCE, before)
            ended = len(places) < _AT_ONCE
            yield places, ended
            if ended:
                return
            before = places[-1]

    def _named(self, connection: Connection, wanted: Filter) -> list[Columns]:
        """The run whose id is what is searched, whatever its age."""
        if wanted.search is None:
            return []
        statement = self._filtered(self.statements.listing, wanted).where(self.tables.run.c.id == wanted.search)
        return self._meant(connection, self._looking(statement, replace(wanted, search=None)), wanted)

    def _places(self, connection: Connection, wanted: Filter, limit: int, before: Place | None) -> list[Place]:
        statement = self._newest(wanted, limit, before)
        return [] if statement is None else [(row.created_at, row.id) for row in connection.execute(statement)]

    def _rows_at(self, connection: Connection, wanted: Filter, places: Sequence[Place]) -> list[Columns]:
        if not places:
            return []
        run = self.tables.run
        statement = self._looking(self.statements.listing, wanted).where(run.c.id.in_([place[1] for place in places]))
        # Sorted here: an order that is asked for may lead a database along an index instead of to these rows.
        rows = self._meant(connection, statement, wanted)
        return sorted(rows, key=lambda row: (row["created_at"], row["id"]), reverse=True)

    @staticmethod
    def _meant(connection: Connection, statement: Select[Any], wanted: Filter) -> list[Columns]:
        """The rows whose status is meant: it may have changed since their place was found."""
        return [row for row in connection.execute(statement).mappings() if row["status"] in wanted.meant]

    def _newest(
        self, wanted: Filter, limit: int, before: Place | None = None, more: Sequence[Column[Any]] = ()
    ) -> Select[Any] | None:
        """The newest runs that indexes lead to: their places, and other columns."""
        run = self.tables.run
        parts = []
        for statuses in wanted.branches:
            part = self._filtered(select(run.c.created_at, run.c.id, *more), wanted).where(run.c.kind.is_(None))
            if statuses != _STATUSES:
                part = part.where(run.c.status == statuses[0] if len(statuses) == 1 else run.c.status.in_(statuses))
            if before is not None:
                at, run_id = before
                part = part.where(run.c.created_at <= at, or_(run.c.created_at < at, run.c.id < run_id))
            parts.append(part.order_by(run.c.created_at.desc(), run.c.id.desc()).limit(limit))
        if len(parts) < 2:
            return parts[0] if parts else None
        every = union_all(*(select(part.subquery()) for part in parts)).subquery()
        return select(every).order_by(every.c.created_at.desc(), every.c.id.desc()).limit(limit)

    def _filtered(self, statement: Select[Any], wanted: Filter) -> Select[Any]:
        """What indexes know of, the status apart."""
        run, taken, event = self.tables.run, self.tables.taken, self.tables.event
        for column, value in ((run.c.task, wanted.task), (run.c.parent_id, wanted.parent)):
            if value is not None:
                statement = statement.where(column == value)
        if wanted.since is not None:
            statement = statement.where(run.c.created_at >= wanted.since)
        if wanted.until is not None:
            statement = statement.where(run.c.created_at < wanted.until)
        if wanted.event is not None:
            seq = select(event.c.seq).where(event.c.id == wanted.event).scalar_subquery()
            statement = statement.where(run.c.id.in_(select(taken.c.run_id).where(taken.c.event == seq)))
        return statement

    def _looking(self, statement: Select[Any], wanted: Filter) -> Select[Any]:
        """What has to be looked for in the rows. The run whose id is searched is found before all others."""
        run, wait = self.tables.run, self.tables.wait
        if wanted.waiting_on is not None:
            # By the run: an index of the name would lead SQLite to all waits of this name, for each of the runs.
            waits = exists().where(wait.c.run_id == run.c.id, func.coalesce(wait.c.name, "") == wanted.waiting_on)
            statement = statement.where(or_(_holds(run.c.waiting_on, wanted.waiting_on), waits))
        if wanted.search is not None:
            statement = statement.where(self._searched(wanted.search), run.c.id != wanted.search)
        return statement

    def _searched(self, text: str) -> Any:
        """A text in the id, the input, the result or the error, as stored; what is sealed can't be searched."""
        run, run_input = self.tables.run, self.tables.input
        found = [_holds(run.c.id, text), _holds(run.c.task, text), _holds(run.c.waiting_on, text)]
        if not self.sealed:
            stored = json.dumps(text)[1:-1]
            found += [_holds(column, stored) for column in (run_input.c.arguments, run.c.result, run.c.error)]
        return or_(*found)

    # ------------------------------------------------------------------- count

    def count_runs(self, link: Link, wanted: Filter) -> dict[str, int]:
        """How many there are of each status, up to ``COUNTED_AT_MOST``; where rows are looked into, of those that are
        looked at."""

        def count(connection: Connection) -> dict[str, int]:
            if wanted.looks_into_rows:
                found = self._count_looked_at(connection, wanted)
            else:
                found = Counter({row.status: row.runs for row in connection.execute(self._counting(wanted))})
            return {
                status: min(found[status] if status in wanted.meant else 0, COUNTED_AT_MOST) for status in _STATUSES
            }

        return link.run(count)

    def _counting(self, wanted: Filter) -> Any:
        run = self.tables.run
        if wanted.parent is not None or wanted.event is not None:  # which no index parts by status
            of = self._filtered(select(run.c.status), wanted).where(run.c.kind.is_(None))
            some = of.limit(COUNTED_AT_MOST * len(_STATUSES)).subquery()
            return select(some.c.status, func.count().label("runs")).group_by(some.c.status)
        parts: list[Any] = []
        for status in _STATUSES:
            of = self._filtered(select(run.c.id), wanted).where(run.c.status == status, run.c.kind.is_(None))
            some = of.limit(COUNTED_AT_MOST).subquery()
            parts.append(select(literal(status).label("status"), func.count().label("runs")).select_from(some))
        return union_all(*parts)

    def _count_looked_at(self, connection: Connection, wanted: Filter) -> Counter[str]:
        found = Counter(row["status"] for row in self._named(connection, wanted))
        run, run_input = self.tables.run, self.tables.input
        for places, _ in self._looked_at(connection, wanted, None):
            if places:
                statement = (
                    select(run.c.status, func.count().label("runs"))
                    .outerjoin(run_input, run_input.c.run_id == run.c.id)
                    .where(run.c.id.in_([place[1] for place in places]))
                    .group_by(run.c.status)
                )
                found.update({row.status: row.runs for row in connection.execute(self._looking(statement, wanted))})
        return found

    # ------------------------------------------------------------------- tell

    def runs_since(self, link: Link, task: str | None, since: int) -> Sequence[Any]:
        """When the newest runs were made, began and ended, and their statuses: one more than are looked at, if there
        are more."""
        run = self.tables.run
        wanted = Filter(task=task, since=since)
        statement = self._newest(wanted, LOOKED_AT_MOST + 1, more=(run.c.status, run.c.started_at, run.c.finished_at))
        assert statement is not None
        return self._found(link, statement)

    def workload(self, link: Link) -> tuple[Columns, Sequence[Any]]:
        """What there is to do, who sweeps, and who executes what."""
        figures = link.run(lambda connection: self._do(connection, self.statements.workload, {}).mappings()[0])
        return figures, self._rows(link, self.statements.holders, {})

    def waiting_for(self, link: Link, event: str, key: str | None) -> set[str]:
        """The runs that such an event is looked at by, as far as they are counted."""
        values: dict[str, Any] = {"at_name": event, "limit": COUNTED_AT_MOST}
        found = {row.run_id for row in self._rows(link, self.statements.waiting_without_key, values)}
        if key is not None:
            rows = self._rows(link, self.statements.waiting_with_key, values | {"at_key": key})
            found |= {row.run_id for row in rows}
        return found


def _holds(column: Any, text: str) -> Any:
    """Whatever the case of its letters; on SQLite, which knows that of ASCII only, at least as it is written."""
    any_case = func.lower(column).contains(text.lower(), autoescape=True)
    return any_case if text.isascii() else or_(any_case, column.contains(text, autoescape=True))
