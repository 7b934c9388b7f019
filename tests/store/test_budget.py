"""What each moment of a run may cost on PostgreSQL: statements, and commits (which wait for the disk)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event

from celery_durable import Retry, step
from celery_durable.core.codec import encode
from celery_durable.engine.events import event_of, new_event
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


def test_waiting_for_an_event(store: Store, counter: Counter) -> None:
    first, second = costs_of(store, counter, lambda: step.wait_for_event("paid", key="k", timeout="1h"))
    assert first == [(2, 1)]  # the state, the step and the wait under the gate; the look for an event that is there
    assert second == [(4, 1), (1, 1)]  # the time is up: the fence, the step, the wait, what is recorded; the end


def test_an_event_that_is_there_and_one_that_the_run_emits(store: Store, counter: Counter) -> None:
    (costs,) = costs_of(
        store,
        counter,
        lambda: step.emit("tell", "told", {"n": 1}),
        lambda: step.wait_for_event("told", timeout="1h"),
        lambda: step.wait_for_event("more", timeout=0),
    )
    assert costs == [
        (3, 1),  # the fence, the step, the event
        (5, 1),  # as if it waited, taken back; the fence, the step, that it is taken
        (2, 1),  # the look, the step
        (1, 1),
    ]


def test_emitting_and_dispatching(store: Store, counter: Counter) -> None:
    with store.link() as link:
        assert store.emit(link, new_event("e1", "paid", {}, "k", max_payload=1000), 0)
        assert counter.take() == (1, 1)
        event = store.event(link, "e1")
        assert event is not None
        store.close_gates(link, event)
        assert store.kinds_of_waits(link, event) == set()
        store.dispatched(link, "e1", None)
    assert counter.take() == (4, 1)  # with nobody waiting


def test_an_event_for_many_runs_is_a_few_statements(store: Store, counter: Counter) -> None:
    def body() -> None:
        step.wait_for_event("paid")

    driver = Driver(store, body)
    for number in range(50):
        driver.start(f"r{number}")
        driver.one_pass(f"r{number}")
    with store.link() as link:
        store.emit(link, new_event("e1", "paid", {}, None, max_payload=1000), 0)
        event = store.event(link, "e1")
        assert event is not None
        counter.take()
        (waits,) = store.waits_for(link, event, 100)
        assert counter.take() == (1, 0)
        woken = store.deliver(link, event, encode(event_of(event)), waits, 0)
    assert len(woken) == 50
    assert counter.take() == (7, 1)
