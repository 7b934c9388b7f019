"""An answer that comes from outside right before any of the writes of a pass, while a block is decided without it.

What the body was told in that pass it is told in every later one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celery_durable import Retry, step
from celery_durable.core.codec import encode
from celery_durable.core.faults import write_error
from celery_durable.store.store import Store
from tests.engine.driving import Driver

from .corpus import key
from .killing import Commits, answer


@pytest.fixture
def store(any_store: Store) -> Store:
    return any_store


Told = list[tuple[str, Any]]


def told(*futures: Any) -> Told:
    return [(future.id, "cancelled" if future.cancelled() else _answer(future)) for future in futures]


def _answer(future: Any) -> Any:
    error = future.exception()
    return (str(error), getattr(error, "__notes__", [])) if error is not None else getattr(future.result(), "name", 0)


def race_with_an_event() -> Told:
    with step.race() as r:
        event = r.wait_for_event("outside", key=key())
        quick = r.run("quick", int)
    return [("winner", r.winner is quick), *told(event, quick)]


def race_with_a_call() -> Told:
    with step.race() as r:
        call = r.call("call", "plain")
        quick = r.run("quick", int)
    return [("winner", r.winner is quick), *told(call, quick)]


def race_with_both() -> Told:
    with step.race() as r:
        call = r.call("call", "plain")
        event = r.wait_for_event("outside", key=key())
        quick = r.run("quick", int)
    return [("winner", r.winner is quick), *told(call, event, quick)]


def enough_of_them() -> Told:
    with step.parallel(min_done=1) as p:
        futures = p.call("call", "plain"), p.wait_for_event("outside", key=key()), p.run("quick", int)
    return told(*futures)


def failing() -> Told:
    error = ""
    try:
        with step.parallel() as p:
            event, call = p.wait_for_event("outside", key=key()), p.call("call", "plain")
            bad = p.options(retry=Retry(max_attempts=1)).run("bad", int, "no number")
    except Exception as raised:
        error = str(raised)
    return [("error", error), *told(event, call, bad)]


BLOCKS = [race_with_an_event, race_with_a_call, race_with_both, enough_of_them, failing]


def come(store: Store, driver: Driver, run_id: str, status: str) -> None:
    """The event is emitted and dispatched, and what was called ends."""
    answer(store, run_id)
    with store.link() as link:
        for row in driver.steps(run_id).values():
            if row["child"] is not None:
                outcome: Any = (
                    {"result": encode(0)} if status == "completed" else {"error": write_error(ValueError("no"))}
                )
                store.end_from_outside(link, row["child"], status=status, **outcome)


@pytest.mark.parametrize("status", ["completed", "failed"])
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_an_answer_that_comes_too_late_or_just_in_time(store: Store, block: Callable[[], Told], status: str) -> None:
    heard: list[Told] = []

    def body() -> None:
        heard.append(block())
        step.run("after", int)
        for number in range(2):
            step.sleep(f"nap-{number}", "1h")

    other = Store(store.engine.url.render_as_string(hide_password=False))
    driver = Driver(store, body)
    wrong = []
    for count in range(1, 12):
        run_id = f"r{count}"
        driver.start(run_id)
        with Commits(store.engine) as commits:
            commits.on_entry[count] = lambda: come(other, driver, run_id, status)  # noqa: B023
            driver.one_pass(run_id)
        for _ in range(2):
            driver.let_time_pass(run_id)
            driver.one_pass(run_id)
        first, *later = heard
        heard.clear()
        assert len(later) == 2
        wrong += [(count, first, again) for again in later if again != first]
    other.engine.dispose()
    assert wrong == []


def test_an_event_that_comes_as_its_wait_is_cancelled(store: Store) -> None:
    """A run is told that it is cancelled, at its wait: then it is there that it is cancelled in every later pass."""
    heard: list[str] = []

    def body() -> None:
        try:
            step.wait_for_event("outside", key=key())
        except BaseException:
            heard.append("at the wait")
            step.sleep("calm", "1h")
            raise
        heard.append("past the wait")
        step.sleep("nap", "1h")

    other = Store(store.engine.url.render_as_string(hide_password=False))
    driver = Driver(store, body)
    passes = []
    for count in range(1, 5):
        run_id = f"r{count}"
        driver.start(run_id)
        driver.one_pass(run_id)
        heard.clear()
        with store.link() as link:
            assert store.cancel(link, run_id, "not needed") is not None
        with Commits(store.engine) as commits:
            commits.on_entry[count] = lambda: answer(other, run_id)  # noqa: B023
            driver.one_pass(run_id)
        if driver.run(run_id)["status"] == "suspended":
            driver.let_time_pass(run_id)
            driver.one_pass(run_id)
        passes.append((count, *heard))
    other.engine.dispose()
    # An event before the claim (1) is an answer; later ones are too late, or just in time, and stay so.
    assert passes[0] == (1, "past the wait")
    assert [len(set(places)) for _, *places in passes] == [1] * len(passes), passes
