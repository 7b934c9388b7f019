"""What each moment of a run may cost on PostgreSQL: statements, and commits (which wait for the disk)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event

from celery_durable import Retry, step
from celery_durable.engine.executor import Failed, Finished, Parked
from celery_durable.store.store import Store
from tests.engine.driving import Driver

from .making import new_run


class Counter:
    """Statements and commits on an engine."""

    def __init__(self, engine: Engine) -> None:
        self.seen: list[str] = []
        event.listen(engine, "before_cursor_execute", self._execute)
        event.listen(engine, "commit", lambda connection: self.seen.append("COMMIT"))

    def _execute(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self.seen.append(" ".join(statement.split()))
        if connection.get_execution_options().get("isolation_level", "AUTOCOMMIT") == "AUTOCOMMIT":
            return
        self.seen[-1] = f"WITHIN {self.seen[-1]}"  # SQLAlchemy's own transaction, which its commit ends

    def take(self) -> tuple[int, int]:
        """Statements (BEGIN and COMMIT apart) and commits since the last time."""
        seen, self.seen = self.seen, []
        statements = commits = 0
        open_transaction = False
        for statement in seen:
            word = statement.split()[0]
            if word == "BEGIN":
                open_transaction = True
            elif word == "COMMIT":
                open_transaction = False
                commits += 1
            elif word == "ROLLBACK":
                open_transaction = False
            elif word == "WITHIN":
                statements += 1
            else:
                statements += 1
                writes = word in ("INSERT", "UPDATE", "DELETE", "WITH")
                commits += writes and not open_transaction
        return statements, commits


@pytest.fixture
def store(postgresql_url: str) -> Iterator[Store]:
    opened = Store(postgresql_url)
    opened.migrate()
    with opened.link() as link:
        opened.now(link)  # what a first connection asks the server
    yield opened
    opened.engine.dispose()


@pytest.fixture
def counter(store: Store) -> Counter:
    return Counter(store.engine)


def test_a_start(store: Store, counter: Counter) -> None:
    with store.link() as link:
        assert store.start(link, new_run())
    assert counter.take() == (1, 1)


def test_taking_a_run_and_all_its_steps(store: Store, counter: Counter) -> None:
    costs: list[tuple[int, int]] = []

    def body() -> None:
        costs.append(counter.take())
        for index in range(3):
            step.run(f"s{index}", int)
        step.sleep("nap", "1h")

    driver = Driver(store, body)
    driver.start()
    counter.take()
    driver.one_pass()
    driver.let_time_pass()
    counter.take()
    driver.one_pass()
    assert costs == [(2, 1), (2, 1)]  # with no steps recorded, and with four


def costs_of(store: Store, counter: Counter, *parts: Callable[[], Any]) -> list[list[tuple[int, int]]]:
    """What each part of a body costs in each pass, and what the end of the pass costs after it."""
    passes: list[list[tuple[int, int]]] = []

    def body() -> None:
        costs: list[tuple[int, int]] = []
        passes.append(costs)
        counter.take()
        for part in parts:
            part()
            costs.append(counter.take())

    driver = Driver(store, body, step_retry=Retry(max_attempts=1))
    driver.start()
    while True:
        ended = driver.one_pass()
        passes[-1].append(counter.take())
        if not isinstance(ended, Parked):
            break
        driver.let_time_pass()
    assert isinstance(ended, (Finished, Failed))
    return passes


def test_steps_that_are_new_and_steps_that_are_replayed(store: Store, counter: Counter) -> None:
    first, second = costs_of(
        store,
        counter,
        lambda: step.run("plain", int),
        lambda: step.run("with arguments", int, "7"),
        lambda: step.now(),
        lambda: step.uuid4(),
        lambda: step.sleep_until("past", 0),
        lambda: step.sleep("nap", "1h"),
    )
    assert first == [(1, 1)] * 5 + [(2, 1)]  # the last is the suspension
    assert second == [(0, 0)] * 6 + [(1, 1)]  # the last is the end


def test_an_error_costs_what_a_value_does(store: Store, counter: Counter) -> None:
    def fail() -> None:
        with pytest.raises(ZeroDivisionError):
            step.run("fails", lambda: 1 // 0)

    (costs,) = costs_of(store, counter, fail)
    assert costs == [(1, 1), (1, 1)]


def test_a_run_that_fails(store: Store, counter: Counter) -> None:
    def body() -> None:
        counter.take()
        raise ValueError

    driver = Driver(store, body)
    driver.start()
    assert isinstance(driver.one_pass(), Failed)
    assert counter.take() == (1, 1)


def test_parking_between_two_attempts(store: Store, counter: Counter) -> None:
    attempts: list[int] = []

    def flaky() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError

    def body() -> None:
        counter.take()
        step.options(retry=Retry(delay="1h")).run("flaky", flaky)

    driver = Driver(store, body)
    driver.start()
    assert isinstance(driver.one_pass(), Parked)
    assert counter.take() == (2, 1)
    driver.let_time_pass()
    driver.finish()
    assert counter.take() == (2, 2)  # the step that is known, and the end


def test_at_most_once_is_recorded_before_and_after(store: Store, counter: Counter) -> None:
    first, second = costs_of(
        store,
        counter,
        lambda: step.options(at_most_once=True).run("once", int),
        lambda: step.sleep("nap", "1h"),
    )
    assert first[0] == (2, 2)
    assert second[0] == (0, 0)


def test_a_transaction_is_one_commit(store: Store, counter: Counter) -> None:
    first, second = costs_of(
        store,
        counter,
        lambda: step.transaction("tx", lambda session: session.execute(store.statements.now).scalar() and None),
        lambda: step.sleep("nap", "1h"),
    )
    assert first[0] == (5, 1)  # the user's own, in a savepoint; the fence; the record
    assert second[0] == (0, 0)


def test_delivery_marks_share_a_statement(store: Store, counter: Counter) -> None:
    with store.link() as link:
        store.mark_delivered(link, ["r1", "r2", "r3"])
    assert counter.take() == (1, 1)


def test_a_look_of_the_sweeper_that_finds_nothing(store: Store, counter: Counter) -> None:
    with store.link() as link:
        assert store.due(link, 500) == []
    assert counter.take() == (1, 0)
