"""``step.state.increment``: no addition is lost, whoever adds at the same time and whatever breaks."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

from celery_durable import step
from celery_durable.engine.executor import Failed, Gone
from celery_durable.store.store import Store
from tests.kill.killing import Commits, lose

from .controls import Starting, put, recover
from .driving import Driver
from .test_events import rows
from .test_state import keep, state_of


@pytest.mark.parametrize("by", ["1", None, True, Decimal(1), [1]])
def test_only_numbers_are_added(start: Starting, by: Any) -> None:
    async def body(step: Any) -> None:
        await step.state.increment("count", by=by)

    driver = start(body)
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, TypeError)
    assert "by=" in str(ended.error)
    assert driver.steps() == {}


@pytest.mark.parametrize("held", ["five", None, True, [1], Decimal("1.5")])
def test_what_is_no_number_is_not_added_to(start: Starting, held: Any) -> None:
    """It is an error at once: trying again would not help."""

    async def body(step: Any) -> None:
        await step.state.increment("count")

    driver = start(body)
    keep(driver.store, "count", held)
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, TypeError)
    assert "'count' holds" in str(ended.error)
    assert state_of(driver.store) == {"count": held}
    assert rows(driver.store, "state")[0].version == 1


def test_that_it_was_no_number_stays_so_for_a_run_that_was_told(start: Starting) -> None:
    told: list[str] = []

    async def body(step: Any) -> list[str]:
        try:
            await step.state.increment("count")
        except TypeError as error:
            told.append(str(error))
        else:
            told.append("added")
        await step.sleep("nap", "1h")
        return told

    driver = start(body)
    keep(driver.store, "count", "five")
    driver.parks()
    keep(driver.store, "count", 5)
    driver.let_time_pass()
    driver.finish()
    assert len(set(told)) == 1, told
    assert state_of(driver.store) == {"count": 5}


RUNS, EACH = 50, 2


def test_additions_of_many_runs_at_once_are_all_there(any_store: Store) -> None:
    meeting = threading.Barrier(10)

    def body() -> list[Any]:
        return [step.state.increment("count", by=by) for by in range(1, EACH + 1)]

    def work(share: int) -> list[Any]:
        found = []
        meeting.wait(30)
        for number in range(share, RUNS, 10):
            driver = Driver(any_store, body)
            driver.start(f"r{number}")
            found += driver.value(f"r{number}")
        return found

    with ThreadPoolExecutor(10) as pool:
        values = [value for found in pool.map(work, range(10)) for value in found]
    assert len(set(values)) == RUNS * EACH, "two runs have seen the same value"
    assert max(values) == RUNS * sum(range(1, EACH + 1))
    assert state_of(any_store) == {"count": max(values)}


def test_an_addition_whose_answer_is_lost_is_there_once(any_store: Store) -> None:
    """A connection breaks before or after any commit: the write is done again, and finds itself done."""

    def body() -> list[Any]:
        first = step.state.increment("count")
        step.state.set("seen", first)
        step.state.delete("other")
        return [first, step.state.increment("count", by=10), step.state.get("seen")]

    plain = Driver(any_store, body)
    plain.start("plain")
    with Commits(any_store.engine) as commits:
        assert plain.value("plain") == [1, 11, 1]
    assert commits.commits >= 6  # claim, the five accesses; finish is one, too
    for when in ("before", "after"):
        for count in range(1, commits.commits + 1):
            put(any_store, "state", value="0")
            run_id = f"{when} {count}"
            driver = Driver(any_store, body)
            driver.start(run_id)
            with Commits(any_store.engine) as lossy:
                getattr(lossy, when)[count] = lose
                assert driver.value(run_id) == [1, 11, 1]
            assert state_of(any_store) == {"count": 11, "seen": 1}


def test_a_worker_that_has_lost_its_run_changes_nothing(start: Starting) -> None:
    async def body(step: Any, verb: str) -> None:
        await step.run("taken", lambda: recover(driver, verb))
        await getattr(step.state, verb)("count", *([7] if verb == "set" else []))

    for verb in ("get", "set", "delete", "increment"):
        driver = start(body, run_id=verb)
        keep(driver.store, "count", 5)
        assert isinstance(driver.one_pass(verb, verb), Gone)
        assert state_of(driver.store) == {"count": 5}
        assert driver.steps(verb) == {}
