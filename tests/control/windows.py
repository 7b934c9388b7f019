"""Holding a thread open before each of its statements in turn, while another one does something."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import event

from celery_durable.core.codec import decode
from celery_durable.engine.executor import Ended
from celery_durable.model import FINISHED
from celery_durable.store.link import Link
from celery_durable.store.records import Claim
from celery_durable.store.store import Store
from tests.engine.driving import Driver

from .operating import LEASE, driver_of, stuck

__all__ = ["Meeting", "Stage", "meetings"]

A_MOMENT = 0.15
"""Seconds after which what goes on meanwhile is taken to wait for a lock of the thread that is held."""
MOST = 80


@dataclass
class Meeting:
    """What came of the two that met."""

    number: int
    held: Any = None
    other: Any = None
    waited: bool = False
    """The other one could not end while the first was held."""
    reached: bool = False
    statements: list[str] = field(default_factory=list)

    @property
    def before(self) -> str:
        """The statement before which the one was held."""
        return self.statements[self.number - 1] if self.reached else ""

    def __str__(self) -> str:
        return f"before statement {self.number}: {self.before[:80]!r} of {[text[:20] for text in self.statements]}"


def meetings(
    store: Store, held: Callable[[int], Callable[[], Any]], other: Callable[[int], Callable[[], Any]]
) -> Iterator[Meeting]:
    """Hold the one before its first statement, its second, and so on, and do the other meanwhile; until it has no more.

    Both are made anew for each meeting, from its number. An error that one of them raises is what came of it.
    """
    for number in range(1, MOST):
        meeting = _meet(store, number, held(number), other(number))
        yield meeting
        if not meeting.reached:
            return
    raise AssertionError(f"there are more than {MOST} statements")


def _meet(store: Store, number: int, held: Callable[[], Any], other: Callable[[], Any]) -> Meeting:
    meeting = Meeting(number)
    with ThreadPoolExecutor(2) as pool:
        others: list[Future[Any]] = []
        first: list[int] = []

        def before(_: Any, __: Any, statement: str, *___: Any) -> None:
            if not first or threading.get_ident() != first[0]:
                return
            meeting.statements.append(" ".join(statement.split()))
            if len(meeting.statements) == number:
                meeting.reached = True
                others.append(pool.submit(_outcome, other))
                try:
                    others[0].result(A_MOMENT)
                except NotYet:
                    meeting.waited = True

        def work() -> Any:
            first.append(threading.get_ident())
            return _outcome(held)

        event.listen(store.engine, "before_cursor_execute", before)
        try:
            meeting.held = pool.submit(work).result(60)
            first.clear()
            if not others:
                others.append(pool.submit(_outcome, other))
            meeting.other = others[0].result(60)
        finally:  # not while somebody still executes statements, and goes through the listeners
            event.remove(store.engine, "before_cursor_execute", before)
    return meeting


def _outcome(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        return error


class Stage:
    """Runs of one body, or of several by the names of their tasks, and a sweeper that sees to them all."""

    def __init__(self, store: Store, **bodies: Callable[..., Any]) -> None:
        self.store = store
        self.drivers = {task: driver_of(store, body) for task, body in bodies.items()}

    def driver(self, task: str = "t") -> Driver:
        return self.drivers[task]

    def one_pass(self, run_id: str, task: str = "t") -> Ended | None:
        """What a message of the run does; ``None``: there is nothing for it to do."""
        with self.store.link() as link:
            claim = self.store.claim(link, run_id, worker="w/1", lease=LEASE)
            if not isinstance(claim, Claim):
                return None
            driver = driver_of(self.store, self.drivers[task].body)
            return driver.execute(link, claim, *decode(claim.arguments)[0])

    def settle(self) -> None:
        """Do what a sweeper brings about, that finds its work in the database and nowhere else, until all is quiet."""
        assert stuck(self.store) == []
        for _ in range(MOST):
            with self.store.link() as link:
                told = [self.store.next_turn(link, name) for name in self.store.free_locks(link, 100)]
            due = [row for row in self.rows() if row.status in ("pending", "suspended") and row.due_at is not None]
            for row in due:
                self.one_pass(row.id, row.task)
            if not due and not told:
                break
        else:
            raise AssertionError("this never ends")
        assert stuck(self.store) == []

    def rows(self) -> list[Any]:
        run = self.store.tables.run
        with self.store.engine.connect() as connection:
            return list(connection.execute(run.select().where(run.c.status.not_in(FINISHED), run.c.kind.is_(None))))

    def look(self, link: Link, run_id: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]] | None:
        found = self.store.get(link, run_id)
        return None if found is None else (dict(found[0]), {row["id"]: dict(row) for row in found[1]})
