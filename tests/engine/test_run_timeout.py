"""``run_timeout``: the time of a whole run, waits included. When it is up, the run is told, cleans up, and fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from celery_durable import Retry, RunCancelled, RunTimeout, aio, step
from celery_durable.core.codec import encode
from celery_durable.core.duration import SECOND
from celery_durable.core.faults import summary
from celery_durable.core.ids import fingerprint
from celery_durable.engine.control import RunRetry
from celery_durable.engine.executor import Cancelled, Failed, Finished
from celery_durable.store.records import NewRun
from celery_durable.store.store import Store

from .blocks import child_of
from .controls import Body, Fed, Starting, Undone, cancel, put, starting, with_verbs
from .driving import Driver
from .test_events import rows
from .test_lock import line, turns

TEN_MINUTES = 600 * SECOND


@pytest.fixture
def start(start: Starting) -> Starting:
    """Runs that have ten minutes."""
    return bounded(start)


def bounded(start: Starting) -> Starting:
    def make(body: Body, **options: Any) -> Fed:
        driver = start(body, **options)
        driver.run_timeout = TEN_MINUTES
        return driver

    return make


def time_is_up(driver: Driver) -> None:
    """It is past the deadline, and the run is woken for that."""
    put(driver.store, "run", deadline_at=1, wake_at=None)


def check_overdue(driver: Driver, ended: Any) -> None:
    """The run has failed of its time."""
    assert isinstance(ended, Failed), ended
    assert isinstance(ended.error, RunTimeout)
    assert str(ended.error).startswith("run r1 of t took longer than its run_timeout, which was up at ")
    run = driver.run()
    assert run["status"] == "failed"
    assert summary(run["error"])["type"] == "celery_durable.errors.RunTimeout"


# -- The deadline


def test_the_time_counts_from_the_start_over_all_passes(start: Starting) -> None:
    async def body(step: Any) -> None:
        for number in range(3):
            await step.sleep(f"nap-{number}", "1m")

    driver = start(body)
    driver.parks()
    run = driver.run()
    assert run["deadline_at"] == run["created_at"] + TEN_MINUTES
    driver.run_timeout = 2 * TEN_MINUTES  # of a version that is deployed later
    driver.let_time_pass()
    driver.parks()
    assert driver.run()["deadline_at"] == run["deadline_at"]


def test_a_run_that_begins_later_has_its_time_from_then_on(store: Store) -> None:
    driver = Fed(store, lambda: step.sleep("nap", "1h"))
    driver.run_timeout = TEN_MINUTES
    arguments = encode([[], {}])
    with store.link() as link:
        store.start(link, NewRun("r1", "t", arguments, fingerprint(arguments), "{}", wake_in=-3600 * SECOND))
        store.start(link, NewRun("r2", "t", arguments, fingerprint(arguments), "{}", wake_in=3600 * SECOND))
        begins = driver.run("r2")["wake_at"]
        claim = store.claim(link, "r2", worker="w", lease=SECOND, slack=7200 * SECOND, run_timeout=TEN_MINUTES)
    driver.parks()
    assert driver.run()["deadline_at"] == driver.run()["created_at"] + TEN_MINUTES
    assert claim is not None
    assert driver.run("r2")["deadline_at"] == begins + TEN_MINUTES


def test_without_a_timeout_there_is_no_deadline(start: Starting) -> None:
    async def body(step: Any) -> None:
        await step.wait_for_event("never")

    driver = start(body)
    driver.run_timeout = None
    driver.parks()
    run = driver.run()
    assert (run["deadline_at"], run["wake_at"], run["due_at"]) == (None, None, None)


WAITS: dict[str, Callable[[Any], Any]] = {
    "step.sleep": lambda step: step.sleep("wait", "1h"),
    "step.wait_for_event": lambda step: step.wait_for_event("wait"),
    "step.wait_for_event with a timeout": lambda step: step.wait_for_event("wait", timeout="1h"),
    "step.call": lambda step: step.call("wait", "child"),
    "a retry": lambda step: step.options(retry=Retry(delay="1h", jitter=False)).run("wait", fails),
}


def fails() -> None:
    raise ConnectionError("refused")


@pytest.mark.parametrize("wait", WAITS)
def test_a_run_is_parked_until_its_deadline_at_most(start: Starting, wait: str) -> None:
    async def body(step: Any) -> None:
        await WAITS[wait](step)

    driver = start(body)
    parked = driver.parks()
    run = driver.run()
    assert parked.wake_at == run["wake_at"] == run["deadline_at"]
    assert run["due_at"] is not None
    assert run["due_at"] <= run["deadline_at"]


def test_a_shorter_wait_is_not_made_longer(start: Starting) -> None:
    async def body(step: Any) -> None:
        await step.sleep("nap", "1m")

    driver = start(body)
    driver.parks()
    run = driver.run()
    assert run["wake_at"] == driver.steps()["nap"]["wake_at"] < run["deadline_at"]


# -- When it is up


@pytest.mark.parametrize("wait", WAITS)
def test_the_body_is_told_where_it_waits_and_the_run_fails(start: Starting, undone: Undone, wait: str) -> None:
    async def body(step: Any) -> None:
        await step.on_rollback("undo", undone.undo, "undo")
        try:
            await WAITS[wait](step)
        except RunCancelled as error:
            undone.log.append(type(error).__name__)
            raise
        finally:
            await step.run("tidy", undone.undo, "tidy")

    driver = start(body)
    driver.parks()
    time_is_up(driver)
    check_overdue(driver, driver.one_pass())
    assert undone.log == ["RunOverdue", "tidy", "undo"]
    assert driver.steps()["wait"]["status"] == "failed"
    assert rows(driver.store, "wait") == []
    for run in rows(driver.store, "run"):
        assert run.parent_id is None or run.status == "cancelled"


def test_cleaning_up_and_undoing_have_the_time_that_they_need(start: Starting, undone: Undone) -> None:
    calls: list[int] = []

    def flaky() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("refused")

    async def body(step: Any) -> None:
        await step.options(retry=Retry(delay="2h", jitter=False)).on_rollback("undo", flaky)
        try:
            await step.wait_for_event("never")
        finally:
            await step.sleep("calm", "1h")
            await step.run("tidy", undone.undo, "tidy")

    driver = start(body)
    driver.parks()
    time_is_up(driver)
    parked = driver.parks()
    assert parked.wake_at == driver.steps()["calm"]["wake_at"]
    driver.let_time_pass()
    parked = driver.parks()
    assert undone.log == ["tidy"]
    assert "undo" in parked.waiting_on
    assert parked.wake_at == driver.steps()["undo"]["wake_at"]
    driver.let_time_pass()
    check_overdue(driver, driver.one_pass())
    assert len(calls) == 2


def test_a_body_can_not_overrule_it(start: Starting) -> None:
    async def body(step: Any) -> str:
        try:
            await step.sleep("nap", "1h")
        except BaseException:
            return "fine"
        return "slept"

    driver = start(body)
    driver.parks()
    time_is_up(driver)
    check_overdue(driver, driver.one_pass())


def test_a_step_that_is_under_way_is_let_finish_and_the_next_one_is_not_begun(
    start: Starting, undone: Undone, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(step: Any) -> None:
        await step.run("long", int)
        undone.log.append("between")
        await step.run("next", undone.undo, "next")

    driver = start(body)
    driver.run_timeout = 1  # a microsecond
    check_overdue(driver, driver.one_pass())
    assert undone.log == []
    driver = start(body, run_id="r2")
    plain = driver.pass_of

    def late(*args: Any) -> Any:
        run = plain(*args)
        now = run.now
        monkeypatch.setattr(run, "now", lambda: now() + (2 * TEN_MINUTES if "long" in run.history else 0))
        return run

    monkeypatch.setattr(driver, "pass_of", late)
    assert isinstance(driver.one_pass("r2"), Failed)
    assert undone.log == ["between"]
    assert {name: row["status"] for name, row in driver.steps("r2").items()} == {"long": "completed", "next": "failed"}


def test_a_body_that_asks_for_nothing_more_ends_as_it_would(start: Starting) -> None:
    async def body(step: Any) -> str:
        await step.sleep("nap", "1m")
        return "done"

    driver = start(body)
    driver.parks()
    driver.let_time_pass()
    time_is_up(driver)
    assert driver.one_pass() == Finished("done")


def test_a_retry_of_the_run_does_not_give_it_more_time(start: Starting) -> None:
    async def body(step: Any) -> None:
        await step.run("before", int)
        if driver.run()["retries"] == 0:
            raise RunRetry(ValueError("again"), 3600 * SECOND)
        await step.run("after", int)

    driver = start(body)
    assert driver.parks().wake_at == driver.run()["deadline_at"]
    time_is_up(driver)
    check_overdue(driver, driver.one_pass())
    assert driver.steps()["after"]["status"] == "failed"


def test_a_run_that_is_cancelled_in_time_ends_as_cancelled(start: Starting) -> None:
    async def body(step: Any) -> None:
        try:
            await step.wait_for_event("never")
        finally:
            await step.sleep("calm", "1h")

    driver = start(body)
    driver.parks()
    cancel(driver, reason="because")
    driver.parks()
    put(driver.store, "run", deadline_at=1)
    driver.let_time_pass()
    assert driver.one_pass() == Cancelled("because")


def test_a_run_that_is_cancelled_when_it_is_overdue_already_has_failed(start: Starting) -> None:
    async def body(step: Any) -> None:
        try:
            await step.wait_for_event("never")
        finally:
            await step.sleep("calm", "1h")

    driver = start(body)
    driver.parks()
    time_is_up(driver)
    driver.parks()
    cancel(driver)
    driver.parks()
    driver.let_time_pass()
    check_overdue(driver, driver.one_pass())


# -- Together with others


def test_whoever_has_called_it_is_told(store: Store, start: Starting) -> None:
    async def body(step: Any) -> str:
        try:
            await step.call("call", "child")
        except RunTimeout as error:
            return str(error)
        return "not reached"

    driver = start(body)
    driver.run_timeout = None
    driver.parks()
    below = Fed(store, with_verbs("def", lambda step: step.sleep("nap", "1h")))
    below.run_timeout = 1
    assert isinstance(below.one_pass(child_of(driver, "call")), Failed)
    assert "took longer than its run_timeout" in driver.value()


def test_a_lock_is_not_waited_for_any_longer(start: Starting, store: Store) -> None:
    (first,), _ = line(starting(store, "def"), "holds it")

    async def body(step: Any) -> None:
        async with step.lock("mine", "account-7"):
            pass

    driver = start(body)
    assert driver.parks().wake_at == driver.run()["deadline_at"]
    with store.engine.begin() as connection:
        run = store.tables.run
        connection.execute(run.update().where(run.c.id == "r1").values(deadline_at=1, wake_at=None))
    check_overdue(driver, driver.one_pass())
    assert turns(store) == [("holds it", "account-7", "has it")]
    assert first.run("holds it")["status"] == "suspended"


@pytest.mark.parametrize("told", ["in the block", "at its end"])
def test_a_lock_is_given_back(start: Starting, told: str) -> None:
    async def body(step: Any) -> None:
        async with step.lock("mine", "account-7"):
            await step.sleep("nap", "1m" if told == "at its end" else "1h")

    driver = start(body)
    driver.parks()
    if told == "at its end":
        driver.let_time_pass()
    time_is_up(driver)
    check_overdue(driver, driver.one_pass())
    assert turns(driver.store) == []


def test_a_block_of_branches(store: Store) -> None:
    def body() -> None:
        with step.parallel() as p:
            p.sleep("nap", "1h")
            p.wait_for_event("never")
            p.run("quick", int)

    driver = Fed(store, body)
    driver.run_timeout = TEN_MINUTES
    driver.start()
    assert driver.parks().wake_at == driver.run()["deadline_at"]
    time_is_up(driver)
    check_overdue(driver, driver.one_pass())
    assert driver.steps()["quick"]["status"] == "completed"
    assert rows(store, "wait") == []


def test_tasks_of_an_event_loop(store: Store, undone: Undone) -> None:
    async def branch(name: str) -> None:
        try:
            await aio.step.wait_for_event(name)
        finally:
            undone.log.append(name)

    async def body() -> None:
        await asyncio.gather(branch("a"), branch("b"), aio.step.sleep("nap", "1h"))

    driver = Fed(store, body)
    driver.run_timeout = TEN_MINUTES
    driver.start()
    assert driver.parks().wake_at == driver.run()["deadline_at"]
    undone.log.clear()
    time_is_up(driver)
    check_overdue(driver, driver.one_pass())
    assert sorted(undone.log) == ["a", "b"]
    assert rows(store, "wait") == []
