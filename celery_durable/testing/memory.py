"""The real store, on a SQLite database in memory whose clock is the test's."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, event, func, literal_column, or_, select
from sqlalchemy.exc import DBAPIError

from ..core.ids import fingerprint
from ..model import FINISHED
from ..store.base import Execute
from ..store.dialects import SQLITE, Dialect
from ..store.link import Link, explain
from ..store.records import Aftermath, Changes, Columns, Deed, Fence, NewEvent, NewRun, Overtaken
from ..store.store import Store
from .clock import Clock

__all__ = ["MemoryStore", "NextDue", "memory_store"]

T = TypeVar("T")

_idle: list[MemoryStore] = []
"""Stores that earlier tests are done with: making one takes longer than a test."""


class NextDue(NamedTuple):
    """When there is something to be done about runs, events and locks, if ever."""

    run: int | None
    event: int | None
    turn: int | None

    @property
    def first(self) -> int | None:
        """Whichever comes first."""
        return min((instant for instant in self if instant is not None), default=None)


class MemoryLink(Link):
    """The one connection there is: it is neither taken nor given back, and to drop it would be to drop the database."""

    def __init__(self, store: MemoryStore, connection: Connection) -> None:
        super().__init__(store.engine, store.dialect)
        self._held = connection
        self.driver = _driver_connection(connection)

    def run(self, operation: Callable[[Connection], T], patience: float = 0.0) -> T:
        try:
            return operation(self._held)
        except DBAPIError as error:
            if self.driver.in_transaction:
                self.driver.rollback()
            raise explain(error, self._engine) from error

    @contextmanager
    def atomic(self, connection: Connection) -> Iterator[None]:
        self.driver.execute(self._dialect.begin)
        try:
            yield
        except BaseException:
            self.driver.rollback()
            raise
        self.driver.commit()


class MemoryStore(Store):
    """One connection, so one thing at a time: the environment calls no two functions at once."""

    stands_in = True

    def __init__(self) -> None:
        super().__init__("sqlite://")
        self.clock = Clock(0)
        self._busy_at: int | None = None
        """When something has happened whose order matters: what comes after it is a microsecond later."""
        event.listen(self.engine, "connect", self._prepare_connection)
        of_run, of_event, of_turn = self.tables.run.c.due_at, self.tables.event.c.due_at, self.tables.turn.c.until
        next_due = select(
            *(select(func.min(due)).where(due.is_not(None)).scalar_subquery() for due in (of_run, of_event, of_turn))
        )
        self._next_due = str(next_due.compile(self.engine))
        self._link = MemoryLink(self, self.engine.connect())

    def link(self) -> Link:
        return self._link

    def choose_dialect(self) -> Dialect:
        return replace(SQLITE, clock="durable_now()", hurry=None)

    def _prepare_connection(self, connection: sqlite3.Connection, _record: Any) -> None:
        connection.create_function("durable_now", 0, lambda: self.clock.now)
        connection.execute("PRAGMA synchronous = OFF")

    def emit_within(self, execute: Execute, event: NewEvent, due_in: int, deed: Deed | None = None) -> bool:
        self._busy_at = self.clock.now
        return super().emit_within(execute, event, due_in, deed)

    def _start_values(self, run: NewRun) -> dict[str, Any]:
        self._come_after()  # a run takes no event from before its start
        return super()._start_values(run)

    def suspend(
        self, link: Link, fence: Fence, *, changes: Changes | None = None, **details: Any
    ) -> Aftermath | Overtaken | None:
        if changes is not None and changes.turns:  # who stands in line first has a lock first
            self._come_after()
            self._busy_at = self.clock.now
        return super().suspend(link, fence, changes=changes, **details)

    def _come_after(self) -> None:
        if self._busy_at == self.clock.now:
            self.clock.now += 1

    def begin(self, clock: Clock) -> None:
        """Hold nothing, at this clock's time."""
        self.clock = self.steady = clock
        self._busy_at = None
        _empty().backup(self._link.driver)

    def all_runs(self, link: Link) -> list[str]:
        """The durable runs, in the order of their starts."""
        run = self.tables.run
        statement = select(run.c.id).where(run.c.kind.is_(None)).order_by(run.c.created_at, literal_column("rowid"))
        return list(link.run(lambda connection: connection.execute(statement).scalars()))

    def called(self, link: Link, run_id: str) -> Columns | None:
        """Which step has called this, and its status."""
        run = self.tables.run
        statement = select(run.c.status, run.c.parent_id, run.c.parent_step).where(run.c.id == run_id)
        return link.run(lambda connection: connection.execute(statement).mappings().first())

    def ended_tasks(self, link: Link, also: Iterable[str]) -> Sequence[Columns]:
        """What became of the ordinary tasks that were called, and of these."""
        run = self.tables.run
        statement = select(run.c.id, run.c.result, run.c.error).where(
            or_(run.c.kind.is_not(None), run.c.id.in_(list(also))), run.c.status.in_(FINISHED)
        )
        return list(link.run(lambda connection: connection.execute(statement).mappings()))

    def load(self, link: Link, run: dict[str, Any], steps: list[dict[str, Any]]) -> None:
        """Hold a run that was recorded elsewhere."""
        given = {"run_id": run["id"], "arguments": run.pop("arguments"), "message": "{}"}
        values = {"token": 0, "sends": 0, "progress": 0, "input_hash": fingerprint(given["arguments"])}

        def insert(connection: Connection) -> None:
            connection.execute(self.tables.run.insert().values(run | values))
            connection.execute(self.tables.input.insert().values(given))
            for step in steps:
                connection.execute(self.tables.step.insert().values(step | {"run_id": run["id"]}))

        link.run(insert)

    def next_due(self) -> NextDue:
        """When something is to happen next that nobody but time brings about. Asked all the time, so without a detour
        over SQLAlchemy."""
        return NextDue(*self._link.driver.execute(self._next_due).fetchone())


def _driver_connection(connection: Any) -> sqlite3.Connection:
    found: sqlite3.Connection = connection.connection.driver_connection
    return found


@cache
def _empty() -> sqlite3.Connection:
    """A database with the tables and nothing in them, to be copied."""
    made = sqlite3.connect(":memory:", check_same_thread=False)
    store = Store("sqlite://")
    store.migrate()
    with store.engine.connect() as connection:
        _driver_connection(connection).backup(made)
    store.engine.dispose()
    return made


@contextmanager
def memory_store(clock: Clock) -> Iterator[MemoryStore]:
    """A store that holds nothing, for one environment."""
    store = _idle.pop() if _idle else MemoryStore()
    store.begin(clock)
    yield store
    _idle.append(store)  # not after an error: its connection may be in a transaction
