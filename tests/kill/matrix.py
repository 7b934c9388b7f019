"""The crash matrix: each operation, killed at each of its boundaries, on each database.

``python -m tests.kill.matrix`` does all of it, and writes what came of it into ``docs/reliability.md``.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from celery_durable.engine import keeper
from tests.services import Services

from .boundaries import Boundaries, Boundary
from .killing import in_child
from .living import Saved, System
from .operations import OPERATIONS, Operation
from .pictures import differences, left_behind, notes, picture
from .workflows import declare

__all__ = ["DATABASES", "PAGE", "Walk", "operations_of", "system_on", "table_of", "walk"]

DATABASES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": "MariaDB"}
PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"

_OF_THE_SLOW = 2
"""Boundaries that are there only where a process takes long: a lease is kept, a dispatch says that it goes on."""


class Walk(NamedTuple):
    """What was done of one operation on one database. Without a kill: it does not hold there."""

    boundaries: int = 0
    kills: int = 0

    def __str__(self) -> str:
        return f"{self.boundaries}, {self.kills}: held" if self.kills else "**does not hold**"


@contextmanager
def system_on(database: str, services: Services, folder: Path) -> Iterator[System]:
    """A system whose database is new."""
    (folder / "notes").mkdir()
    if database == "sqlite":
        with _opened(f"sqlite:///{folder / 'durable.db'}", services, folder) as system:
            yield system
        return
    with getattr(services, database).fresh() as url, _opened(url, services, folder) as system:
        yield system


@contextmanager
def _opened(url: str, services: Services, folder: Path) -> Iterator[System]:
    system = System(url, services.redis.url, folder / "notes")
    declare(system.app)
    # Its thread would write delivery marks whenever it likes. Who executes a message here has them written at once.
    with mock.patch.object(keeper, "_GATHERING", 3600):
        yield system
    system.close()


def walk(system: System, operation: Operation, first: int = 0, every: int = 1) -> Walk:
    """Kill it everywhere, or at some of its boundaries, and raise ``AssertionError`` where that makes a difference in
    the end."""
    system.clear()
    operation.prepare(system)
    prepared = system.save()
    case = Case(system, operation, prepared)
    boundaries = case.boundaries[first::every]
    kills = sum(case.killed(boundary) for boundary in boundaries)
    assert kills >= len(boundaries) - 2 * operation.branches - _OF_THE_SLOW
    return Walk(len(boundaries), kills)


class Case:
    """An operation, and what it comes to when nobody disturbs it."""

    def __init__(self, system: System, operation: Operation, prepared: Saved) -> None:
        self.system = system
        self.operation = operation
        self.prepared = prepared
        system.restore(prepared)
        with self._watched() as boundaries:
            operation.act(system, prepared.messages)
        self.boundaries = boundaries.found
        self._finish()
        rows = system.rows()
        self.expected = picture(rows)
        self.noted = notes(rows)
        found = {run: self.expected["runs"][run]["status"] for run in operation.ends}
        assert found == operation.ends
        left = left_behind(system, rows)
        assert not left, left

    def _watched(self, kill_at: Boundary | None = None) -> Boundaries:
        return Boundaries(self.system.store.engine, self.system.users, kill_at=kill_at)

    def killed(self, boundary: Boundary) -> bool:
        """Whether there is such a boundary."""
        system, operation = self.system, self.operation
        system.restore(self.prepared)

        def work() -> None:
            system.after_fork()
            with self._watched(boundary):
                operation.act(system, self.prepared.messages)

        killed = in_child(work)
        try:
            self._bring_to_its_end(boundary)
            self._check()
        except Exception as error:
            raise AssertionError(f"{operation.name}, killed {boundary.when} statement {boundary.number}") from error
        return killed

    def _bring_to_its_end(self, boundary: Boundary) -> None:
        """A call is made again, at once or after a while; a message comes again, or is lost with the worker."""
        system, operation = self.system, self.operation
        if boundary.when == "after":
            system.live()
        if operation.by == "client":
            operation.act(system, self.prepared.messages)
        elif operation.by == "sweeper":
            system.time_passes("1m")
            system.sweep()
        elif boundary.when == "before":
            system.handle(self.prepared.messages)
        self._finish()

    def _finish(self) -> None:
        self.system.live()
        self.operation.afterwards(self.system)
        self.system.live()

    def _check(self) -> None:
        rows = self.system.rows()
        wrong = differences(picture(rows), self.expected) + left_behind(self.system, rows)
        assert not wrong, wrong
        done, again = notes(rows), int(self.operation.by == "worker")
        assert done.keys() == self.noted.keys()
        assert all(count <= self.noted[what] + again for what, count in done.items()), done - self.noted


# -- The page

TITLES = {
    "client": "What people and programs call",
    "worker": "What a worker does about a message",
    "sweeper": "What the sweeper finds",
}


def operations_of(page: str) -> list[str]:
    """The operations that the page's table has, in its order."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in _between(page).splitlines() if "|" in line]
    return [name for name, *cells in rows[2:] if all(cells)]


def _between(page: str) -> str:
    return page.partition(BEGIN)[2].partition(END)[0]


def table_of(found: Mapping[str, Mapping[str, Walk]]) -> str:
    """What came of all operations, as the page has it."""
    lines = [f"| Operation | {' | '.join(DATABASES.values())} |", "| --- " * (1 + len(DATABASES)) + "|"]
    for by, title in TITLES.items():
        lines.append(f"| **{title}** " + "| " * len(DATABASES) + "|")
        for operation in OPERATIONS:
            if operation.by == by:
                walks = found[operation.name]
                lines.append(f"| {operation.name} | {' | '.join(str(walks[name]) for name in DATABASES)} |")
    kills = sum(walk.kills for walks in found.values() for walk in walks.values())
    return "\n".join([*lines, "", f"{len(OPERATIONS)} operations, {kills:,} kills."])


def write_page(table: str) -> None:
    page = PAGE.read_text()
    PAGE.write_text(page.replace(f"{BEGIN}{_between(page)}{END}", f"{BEGIN}\n\n{table}\n\n{END}"))


def main() -> int:
    """Walk all of it, write the page, and fail where something does not hold."""
    logging.getLogger("celery_durable").setLevel(logging.CRITICAL)  # the dead workers are no news
    services = Services()
    found: dict[str, dict[str, Walk]] = {operation.name: {} for operation in OPERATIONS}
    try:
        for database, title in DATABASES.items():
            with tempfile.TemporaryDirectory() as folder, system_on(database, services, Path(folder)) as system:
                for operation in OPERATIONS:
                    found[operation.name][database] = _walked(system, operation)
                    print(f"{title}: {operation.name}: {found[operation.name][database]}", flush=True)  # noqa: T201
    finally:
        services.close()
    write_page(table_of(found))
    return int(any(not walk.kills for walks in found.values() for walk in walks.values()))


def _walked(system: System, operation: Operation) -> Walk:
    try:
        return walk(system, operation)
    except AssertionError:
        traceback.print_exc()
        return Walk()


if __name__ == "__main__":
    sys.exit(main())
