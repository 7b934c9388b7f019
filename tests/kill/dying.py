"""Every shape of the corpus is killed right before and right after each of its commits.

However and wherever a worker dies, the run goes on from its last recorded step, and ends as if nothing had
happened: with the same result and the same record, what it wrote in transactions there once, and only the step
that was under way done again. The same holds where the worker is not dead but slow: its run is taken over in the
moment before it writes, and what it does then has no effect.

These are the tests of a database, which has a file that names it: so three processes can do them at once.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text

from celery_durable import Retry
from celery_durable.core.faults import summary
from celery_durable.store.store import Store
from tests.engine.driving import Driver

from .corpus import Notes, Shape
from .corpus_control import CORPUS
from .killing import Cast, Commits, complete, die, drive, in_child, lose
from .living import System
from .matrix import DATABASES, walk
from .operations import OPERATIONS, Operation


@dataclass(frozen=True)
class Ending:
    """How a run ended and what it left behind."""

    status: str
    result: str | None
    error: tuple[str, str] | None
    steps: dict[str, dict[str, Any]]
    rows: Counter[str]
    notes: Counter[str]
    called: dict[str, Ending]


_numbers = itertools.count()
ENDS = {
    "failing": "failed",
    "cancelled_by_timeout": "cancelled",
    "cancelled_run": "cancelled",
    "cancelled_with_its_calls": "cancelled",
    "rolled_back": "failed",
    "rolled_back_in_part": "failed",
    "rolled_back_by_cancelling": "cancelled",
    "rolled_back_with_its_calls": "cancelled",
    "async_rolled_back": "failed",
    "locked_and_failing": "failed",
    "locked_and_cancelled": "cancelled",
}
"""The shapes that do not end well."""
COMPARED = ("position", "kind", "function", "status", "input", "input_hash", "result", "attempts", "heartbeat", "block")


def ending(driver: Cast, run_id: str, names: dict[str, str] | None = None) -> Ending:
    run, steps = driver.run(run_id), driver.steps(run_id)
    names = names or {run_id: "RUN"} | _names_below(driver, run_id)
    with driver.store.engine.connect() as connection:
        rows = connection.execute(text("SELECT name FROM effects WHERE run_id = :run_id"), {"run_id": run_id})
        return Ending(
            run["status"],
            run["result"],
            _said(run["error"], names),
            {
                name: {column: row[column] for column in COMPARED} | {"error": _said(row["error"], names)}
                for name, row in steps.items()
            },
            Counter(rows.scalars()),
            Notes.of(run_id),
            {name: ending(driver, child["id"], names) for name, child in driver.called(run_id).items()},
        )


def _names_below(driver: Cast, run_id: str, path: str = "RUN") -> dict[str, str]:
    """What to call the runs that a run has called, where texts name them."""
    found: dict[str, str] = {}
    for step_id, run in driver.called(run_id).items():
        found |= {run["id"]: f"{path}/{step_id}"} | _names_below(driver, run["id"], f"{path}/{step_id}")
    return found


def _said(error: str | None, names: dict[str, str]) -> Any:
    """An error without its traceback, which tells where the process was, and without the ids of runs."""
    if error is None:
        return None
    info = summary(error)
    return (info["type"], *(_named(said, names) for said in (info["message"], *info["notes"])))


def _named(said: str, names: dict[str, str]) -> str:
    for run_id, name in names.items():
        said = said.replace(run_id, name)
    return said


class Case:
    """One shape on one database, and what it does when nobody disturbs it."""

    def __init__(self, shape: Shape, store: Store) -> None:
        self.shape = shape
        self.driver = Cast(store, shape, step_retry=Retry(max_attempts=2, delay="1h"))
        self.expected_id = self._started(f"undisturbed-{next(_numbers)}")
        with Commits(store.engine) as commits:
            drive(self.driver, self.expected_id, commits)
        self.commits, self.entries, self.of_users = commits.commits, commits.entries, commits.of_users
        self.expected = ending(self.driver, self.expected_id)
        assert self.expected.status == ENDS.get(shape.name, "completed"), self.expected.error

    def _started(self, name: str) -> str:
        run_id = f"{self.shape.name}-{name}"
        self.driver.start(run_id)
        return run_id

    def killed(self, when: str, count: int) -> bool:
        """Whether there is such a commit."""
        run_id = self._started(f"{when}-{count}")

        def work() -> None:
            with Commits(self.driver.store.engine) as commits:
                getattr(commits, when)[count] = die
                drive(self.driver, run_id, commits)

        killed = in_child(work)
        complete(self.driver, run_id)
        self.check(run_id)
        return killed

    def taken_over(self, count: int, rival: Driver) -> bool:
        """Whether there is such an entry."""
        run_id = self._started(f"taken-{count}")
        taken: list[str] = []

        def take_over() -> None:
            # On a thread of its own: the rival is another worker, which is not inside the step of this one.
            with ThreadPoolExecutor(1) as another:
                taken.append(another.submit(complete, rival, run_id).result())

        with Commits(self.driver.store.engine) as commits:
            commits.on_entry[count] = take_over
            status = drive(self.driver, run_id, commits)
        self.check(run_id)
        # What an ordinary task reports is no pass: that the rival was told before is nothing to stop for.
        assert status == "gone" or (status == self.expected.status and (not taken or self.shape.reported))
        return bool(taken)

    def unanswered(self, when: str, count: int) -> None:
        run_id = self._started(f"unanswered-{when}-{count}")
        with Commits(self.driver.store.engine) as commits:
            getattr(commits, when)[count] = lose
            status = drive(self.driver, run_id, commits)
        assert status == self.expected.status
        found = ending(self.driver, run_id)
        assert self._notes(found) == self._notes(self.expected)  # nothing had to be done again
        self.check(run_id)

    def _notes(self, end: Ending) -> list[dict[str, int]]:
        """How often everything was done, by the run and by those that it called."""
        own = {name: count for name, count in end.notes.items() if name not in self.shape.loose}
        return [own, *(notes for called in end.called.values() for notes in self._notes(called))]

    def enough(self, hits: int, of: int) -> bool:
        """Branches that end together are recorded together: now more of them, now fewer."""
        return of - self.shape.branches <= hits if self.shape.branches else hits == of

    def check(self, run_id: str) -> None:
        self._compare(ending(self.driver, run_id), self.expected)
        with self.driver.store.engine.connect() as connection:
            turn = self.driver.store.tables.turn
            ids = [run_id, *_names_below(self.driver, run_id)]
            assert connection.execute(turn.select().where(turn.c.run_id.in_(ids))).all() == []  # all locks are free

    def _compare(self, found: Ending, expected: Ending) -> None:
        shape = self.shape
        interrupted = {
            name for name, row in found.steps.items() if row["error"] and "StepInterrupted" in row["error"][0]
        }
        assert interrupted <= shape.once
        assert found.status == expected.status
        assert found.error == expected.error
        if not interrupted:
            assert found.result == expected.result
        assert self._comparable(found, interrupted) == self._comparable(expected, interrupted)
        assert self._order(found) == self._order(expected)  # each once, in the same order
        for name in (found.rows | expected.rows).keys() - interrupted:
            assert found.rows[name] == expected.rows[name] == 1, f"{name} took effect {found.rows[name]} times"
        for name in found.notes | expected.notes:
            least = 0 if name in interrupted | shape.loose else 1
            most = 1 if name in shape.once else 2
            assert least <= found.notes[name] <= most, f"{name} was done {found.notes[name]} times"
        for name in interrupted & set(found.rows):
            assert found.rows[name] <= 1
        assert found.called.keys() == expected.called.keys()
        for name in found.called:
            self._compare(found.called[name], expected.called[name])

    def _order(self, end: Ending) -> list[str]:
        return [name for name in end.steps if name not in self.shape.loose]

    def _comparable(self, end: Ending, left_out: set[str]) -> dict[str, dict[str, Any]]:
        free = {"input", "input_hash", "result"}
        return {
            name: {column: value for column, value in row.items() if name not in self.shape.free or column not in free}
            for name, row in end.steps.items()
            if name not in left_out | self.shape.loose
        }


def count_while(there_is: Callable[[int], bool]) -> int:
    """For how many numbers, from 1 on, that is so."""
    return next(count for count in itertools.count(1) if not there_is(count)) - 1


@pytest.mark.parametrize("shape", CORPUS, ids=lambda shape: shape.name)
def test_a_worker_that_dies(store: Store, shape: Shape) -> None:
    case = Case(shape, store)
    assert case.commits >= 3
    for when in ("before", "after"):
        assert case.enough(count_while(partial(case.killed, when)), case.commits)


@pytest.mark.parametrize("shape", CORPUS, ids=lambda shape: shape.name)
def test_a_worker_that_is_slow(store: Store, shape: Shape) -> None:
    case = Case(shape, store)
    other = Store(store.engine.url.render_as_string(hide_password=False))
    try:
        rival = Cast(other, shape, step_retry=case.driver.step_retry)
        rival.worker = "rival/2"
        assert case.enough(count_while(lambda count: case.taken_over(count, rival)), case.entries)
    finally:
        other.engine.dispose()


@pytest.mark.parametrize("shape", CORPUS, ids=lambda shape: shape.name)
def test_a_database_that_does_not_answer(store: Store, shape: Shape) -> None:
    """A connection breaks before or after a commit. The worker does the write once more, on a new one."""
    case = Case(shape, store)
    for count in range(1, case.commits + 1):
        case.unanswered("after", count)
        if count not in case.of_users:  # which is a failed attempt: the function's own work is lost with it
            case.unanswered("before", count)


def test_the_corpus_is_killed_often_enough(store: Store) -> None:
    """The hooks see every commit: a run of two plain steps and a sleep has its six."""
    from celery_durable import step

    def body() -> None:
        step.run("a", int)
        step.run("b", int)
        step.sleep("nap", "1h")

    driver = Driver(store, body)
    driver.start("counted")
    with Commits(store.engine) as commits:
        assert drive(driver, "counted", commits) == "completed"
    assert commits.commits == commits.entries == 6  # claim, a, b, suspend; claim, finish


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_an_operation_that_dies(system: System, operation: Operation) -> None:
    """Wherever that is, and whoever goes on: in the end it is as if nobody had died.

    Here at every second boundary, those between them on the next database. ``make matrix`` leaves none out.
    """
    first = list(DATABASES).index(system.store.dialect.name) % 2
    assert walk(system, operation, first, every=2).kills >= 1
