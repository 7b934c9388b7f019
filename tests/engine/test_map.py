"""``step.map``; and how many branches of a block are at work at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel

from celery_durable import DuplicateStep, NotSerializable, Retry, TooManySteps, step
from celery_durable.engine.executor import Failed, Finished, Parked
from celery_durable.engine.settings import Settings
from celery_durable.store.store import Store
from tests.waiting import wait_until

from .blocks import (
    ONCE,
    Started,
    check_nothing_dangles,
    end_child,
    fail,
    has_ended,
    outcome,
    statuses,
    time_is_up,
)
from .driving import LEASE, Driver
from .test_events import dispatch, emit


class Meter:
    """Counts how many are in it at once; they leave when so many have come, or all that there are."""

    def __init__(self, expected: int, total: int) -> None:
        self.lock = threading.Condition()
        self.expected, self.total = expected, total
        self.inside = self.most = 0
        self.order: list[Any] = []

    def __call__(self, item: Any) -> Any:
        with self.lock:
            self.inside += 1
            self.order.append(item)
            self.most = max(self.most, self.inside)
            self.lock.notify_all()
            assert self.lock.wait_for(lambda: self.most >= self.expected or len(self.order) == self.total, 20)
        with self.lock:
            self.inside -= 1
        return item


# -- Maps


def test_the_values_come_in_the_order_of_the_items(started: Started) -> None:
    calls: list[int] = []
    together = threading.Barrier(4, timeout=20)

    def square(number: int) -> int:
        together.wait()
        if number < 3:
            wait_until(lambda: has_ended(f"squares[{number + 1}]"))
        calls.append(number)
        return number * number

    def body() -> list[int]:
        found = step.map("squares", square, range(4))
        step.sleep("nap", "1h")
        return found

    driver = started(body)
    assert driver.value() == [0, 1, 4, 9]
    assert calls == [3, 2, 1, 0]
    assert list(driver.steps()) == ["squares[0]", "squares[1]", "squares[2]", "squares[3]", "nap"]


@pytest.mark.parametrize("items", [[], (), {}, iter([])])
def test_a_map_of_nothing(started: Started, items: Any) -> None:
    driver = started(lambda: step.map("m", fail, items))
    assert driver.value() == []
    assert driver.steps() == {}


def test_a_generator_of_items(started: Started) -> None:
    def body() -> list[str]:
        return step.map("m", str.upper, (letter for letter in "abc"))

    assert started(body).value() == ["A", "B", "C"]


def test_items_that_fail_to_come(started: Started) -> None:
    """Nothing is begun before all are there."""
    calls: list[int] = []

    def items() -> Iterator[int]:
        yield 1
        raise LookupError("the second")

    driver = started(lambda: step.map("m", calls.append, items()))
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, LookupError)
    assert (calls, driver.steps()) == ([], {})


class Order(BaseModel):
    number: int
    total: Decimal


def test_types_cross_as_in_a_step(started: Started) -> None:
    seen: list[Any] = []

    def price(order: Order) -> Order:
        seen.append(order)
        return Order(number=order.number, total=order.total * 2)

    def body() -> None:
        found = step.map("price", price, [Order(number=1, total=Decimal("9.90"))])
        seen.append(found)
        seen.append(step.options(returns=Decimal).map("other", lambda total: f"{total}", [Decimal("1.50")]))

    assert started(body).value() is None
    assert seen == [
        Order(number=1, total=Decimal("9.90")),
        [Order(number=1, total=Decimal("19.80"))],
        [Decimal("1.50")],
    ]


def test_an_item_that_fails_for_good(started: Started) -> None:
    """The others that are at work are waited for, and those that have not begun are not."""
    calls: list[int] = []

    def work(item: int) -> None:
        calls.append(item)
        if item == 1:
            fail("the second")

    driver = started(lambda: step.options(retry=ONCE).map("m", work, range(5), limit=1))
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert type(ended.error) is ValueError
    assert "celery_durable: step 'm[1]' of run r1 failed" in ended.error.__notes__
    assert calls == [0, 1]
    assert statuses(driver) == {"m[0]": "completed", "m[1]": "failed"}


def test_items_that_are_tried_again(started: Started) -> None:
    """The run is parked between attempts, and only what failed is done again."""
    calls: list[int] = []

    def work(item: int) -> int:
        calls.append(item)
        if item % 2 and calls.count(item) < 3:
            fail()
        return item

    def body() -> list[int]:
        retry = Retry(max_attempts=3, delay="1m", backoff=10, max_delay="1d", jitter=False)
        return step.options(retry=retry).map("m", work, range(4))

    driver = started(body)
    delays = []
    for _ in range(2):
        assert isinstance(driver.one_pass(), Parked)
        step_of = driver.steps()["m[1]"]
        delays.append(round((step_of["wake_at"] - driver.run()["started_at"]) / 60e6))
        driver.let_time_pass()
    assert driver.value() == [0, 1, 2, 3]
    assert (sorted(calls), delays) == ([0, 1, 1, 1, 2, 3, 3, 3], [1, 10])
    check_nothing_dangles(driver)


def test_a_map_whose_id_is_used_twice(started: Started) -> None:
    driver = started(lambda: (step.map("m", int, [1]), step.map("m", int, [2])))
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, DuplicateStep)
    assert "'m[0]' is used twice" in str(ended.error)


@pytest.mark.parametrize(
    ("use", "error"),
    [
        (lambda: step.map("m", int, [1], limit=0), ValueError),
        (lambda: step.map("m", int, 7), TypeError),  # type: ignore[arg-type]
        (lambda: step.map("m", str, [object()]), NotSerializable),
        (lambda: step.map("", int, [1]), None),
    ],
)
def test_wrong_maps(started: Started, use: Callable[[], Any], error: type[Exception] | None) -> None:
    driver = started(use)
    ended = driver.one_pass()
    if error is None:  # "[0]" is an id like any other
        assert not isinstance(ended, Failed)
        return
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, error)
    assert driver.steps() == {}


def test_more_items_than_steps_are_allowed(started: Started) -> None:
    driver = started(lambda: step.map("m", int, range(6)), settings=Settings(lease=LEASE, max_steps=5))
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, TooManySteps)
    assert driver.steps() == {}


def test_a_map_that_has_grown_since(started: Started) -> None:
    """A deploy, or a list that is another one on a replay: the recorded items keep their values."""
    items = [1, 2]

    def body() -> list[int]:
        found = step.map("m", lambda item: item * 10, items)
        step.sleep("nap", "1h")
        return found

    driver = started(body)
    driver.one_pass()
    items.append(3)
    driver.let_time_pass()
    assert driver.one_pass() == Finished([10, 20, 30])
    assert statuses(driver) == dict.fromkeys(["m[0]", "m[1]", "m[2]", "nap"], "completed")


# -- A limit


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_never_more_at_once_than_the_limit(started: Started, limit: int) -> None:
    meter = Meter(expected=limit, total=20)
    driver = started(lambda: step.map("m", meter, range(20), limit=limit))
    assert driver.value() == list(range(20))
    assert meter.most == limit
    assert sorted(meter.order[:limit]) == list(range(limit))
    if limit == 1:
        assert meter.order == list(range(20))


def test_without_a_limit_a_hundred_at_once(started: Started) -> None:
    meter = Meter(expected=100, total=150)
    driver = started(lambda: step.map("m", meter, range(150)))
    assert driver.value() == list(range(150))
    assert meter.most == 100


def test_sleeps_waits_and_calls_count_as_well(store: Store, started: Started) -> None:
    calls: list[str] = []

    def body() -> str:
        with step.parallel(limit=2) as p:
            p.sleep("s", "1h")
            p.wait_for_event("w")
            p.run("a", calls.append, "a")
            p.call("c", "child")
            p.run("b", calls.append, "b")
        return "done"

    driver = started(body)
    driver.one_pass()
    assert statuses(driver) == {"s": "waiting", "w": "waiting"}
    dispatch(store, emit(store, "w"))
    driver.one_pass()
    assert statuses(driver) == {"s": "waiting", "w": "completed", "a": "completed", "c": "waiting"}
    time_is_up(driver, "s")
    driver.one_pass()
    assert calls == ["a", "b"]
    end_child(driver, "c", lambda: None)
    assert driver.value() == "done"
    check_nothing_dangles(driver)


def test_an_attempt_to_come_keeps_its_place(started: Started) -> None:
    calls: list[str] = []

    def flaky(name: str) -> None:
        calls.append(name)
        if calls.count("a") == 1:
            fail()

    def body() -> None:
        with step.parallel(limit=1) as p:
            p.run("a", flaky, "a")
            p.run("b", flaky, "b")

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    assert calls == ["a"]
    driver.let_time_pass()
    assert driver.value() is None
    assert calls == ["a", "a", "b"]


def test_a_limit_while_others_of_the_block_sleep(started: Started) -> None:
    """A function that ends makes place for the next in the same pass."""
    calls: list[int] = []

    def body() -> list[str]:
        with step.parallel(limit=2) as p:
            nap = p.sleep("s", "1h")
            futures = [p.run(f"{number}", calls.append, number) for number in range(5)]
        return [outcome(nap), *map(outcome, futures)]

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    assert calls == list(range(5))
    driver.let_time_pass()
    assert driver.value() == ["completed"] * 6


def test_a_block_in_a_block_takes_one_place_of_its_limit(started: Started) -> None:
    meter = Meter(expected=3, total=4)

    def body() -> list[Any]:
        with step.parallel(limit=1) as p:
            with p.parallel() as inner:
                futures = [inner.run(f"{number}", meter, number) for number in range(3)]
            futures.append(p.run("last", meter, "last"))
        return [future.result() for future in futures]

    assert started(body).value() == [0, 1, 2, "last"]
    assert (meter.most, meter.order[-1]) == (3, "last")


def test_a_limit_holds_on_the_next_pass(started: Started) -> None:
    """Items that are to be tried again and new ones make up the limit together."""
    calls: list[int] = []

    def work(item: int) -> int:
        calls.append(item)
        return item if calls.count(item) == 2 else fail()

    driver = started(lambda: step.map("m", work, range(5), limit=2))
    for begun in ([0, 1], [0, 1, 2, 3], [2, 3, 4]):
        calls_before = len(calls)
        assert isinstance(driver.one_pass(), Parked)
        assert sorted(calls[calls_before:]) == begun
        driver.let_time_pass()
    assert driver.value() == list(range(5))


def test_a_settled_map_by_hand(started: Started) -> None:
    """Where all items are to be tried: the branches of a block that settles."""

    def body() -> list[Any]:
        with step.options(retry=ONCE).parallel(settle=True, limit=2) as p:
            futures = [p.run(f"m[{number}]", int, item) for number, item in enumerate(["1", "x", "3"])]
        step.sleep("nap", "1h")
        return [outcome(future) for future in futures]

    assert started(body).value() == ["completed", "ValueError", "completed"]


def test_many_runs_share_nothing(store: Store) -> None:
    driver = Driver(store, lambda: step.map("m", lambda item: step.current().run_id, range(2)))
    for run_id in ("one", "two"):
        driver.start(run_id)
        assert driver.value(run_id) == [run_id] * 2
