"""A rollback that has begun: the run can only end so, whatever its body does in a later pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celery_durable import RunCancelled
from celery_durable.engine.control import RunRetry
from celery_durable.engine.executor import Failed, Parked
from celery_durable.engine.settings import Settings
from celery_durable.store.records import Deed

from .controls import ONCE, Starting, Undone, cancel, notes_of
from .driving import LEASE
from .test_events import rows
from .test_rollback import LATER, broken
from .test_rollback_retries import flaky


def test_a_run_that_is_rolled_back_ends_so_though_its_body_would_not_fail_again(
    start: Starting, undone: Undone
) -> None:
    passes: list[int] = []

    async def body(step: Any) -> str:
        passes.append(1)
        await step.options(retry=LATER).on_rollback("flaky", lambda: flaky(undone.log, "flaky", 2))
        if len(passes) == 1:
            raise LookupError("no seat")
        return "all is well"

    driver = start(body)
    driver.parks()
    driver.let_time_pass()
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, LookupError)
    assert str(ended.error) == "no seat"
    assert driver.run()["result"] is None
    assert undone.log == ["flaky-1", "flaky-2"]


async def fails_otherwise(step: Any) -> None:
    raise ValueError("another one")


async def retries(step: Any) -> None:
    raise RunRetry(ValueError("again"), 1)


async def is_cancelled(step: Any) -> None:
    raise RunCancelled("by itself")


async def writes(step: Any, reached: list[str]) -> None:
    await step.run("new", reached.append, "ran")


OTHERWISE: dict[str, Callable[[Any, list[str]], Any]] = {
    "step.run": lambda step, reached: step.run("new", reached.append, "ran"),
    "step.transaction": lambda step, reached: step.transaction("new", lambda session: reached.append("ran")),
    "step.emit": lambda step, reached: step.emit("new", "news"),
    "step.sleep": lambda step, reached: step.sleep("new", "1h"),
    "step.wait_for_event": lambda step, reached: step.wait_for_event("new"),
    "step.call": lambda step, reached: step.call("new", "child"),
    "step.now": lambda step, reached: step.now(),
    "step.state": lambda step, reached: step.state.increment("new"),
    "step.patched": lambda step, reached: step.patched("new"),
    "step.set_progress": lambda step, reached: step.set_progress(1),
    "step.continue_as_new": lambda step, reached: step.continue_as_new("new"),
    "step.on_rollback": lambda step, reached: step.on_rollback("new", reached.append, "undone"),
    "another error": lambda step, reached: fails_otherwise(step),
    "a retry": lambda step, reached: retries(step),
    "RunCancelled": lambda step, reached: is_cancelled(step),
}


@pytest.mark.parametrize("otherwise", OTHERWISE)
def test_a_body_that_does_something_else_in_a_later_pass_does_nothing_new(
    start: Starting, undone: Undone, otherwise: str
) -> None:
    passes: list[int] = []
    reached: list[str] = []

    async def body(step: Any, *_: Any) -> str:
        passes.append(1)
        await step.run("before", int)
        await step.options(retry=LATER).on_rollback("flaky", lambda: flaky(undone.log, "flaky", 2))
        if len(passes) == 1:
            raise LookupError("no seat")
        await OTHERWISE[otherwise](step, reached)
        return "all is well"

    driver = start(body)
    driver.parks()
    driver.let_time_pass()
    ended = driver.one_pass()
    assert isinstance(ended, Failed), ended
    assert isinstance(ended.error, LookupError)
    assert driver.kinds() == [("before", "run"), ("(rollback)", "rollback"), ("flaky", "undo")]
    assert reached == []
    assert undone.log == ["flaky-1", "flaky-2"]
    assert driver.run()["reported"] is None
    assert driver.run()["generation"] == 0
    for table in ("event", "wait", "state"):
        assert rows(driver.store, table) == []
    assert len(rows(driver.store, "run")) == 1


def test_cleaning_up_is_done_before_and_goes_on_where_it_was(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> None:
        await step.options(retry=LATER).on_rollback("flaky", lambda: flaky(undone.log, "flaky", 2))
        try:
            await step.options(retry=ONCE).run("fails", broken)
        except ConnectionError:
            await step.run("note", undone.undo, "note")
            raise
        finally:
            await step.run("tidy", undone.undo, "tidy")
            await step.sleep("calm", "1h")
            await step.run("tidy more", undone.undo, "tidy more")

    driver = start(body)
    driver.parks()
    assert undone.log == ["note", "tidy"]
    driver.let_time_pass()
    ended = driver.finish()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, ConnectionError)
    assert undone.log == ["note", "tidy", "tidy more", "flaky-1", "flaky-2"]


def test_a_run_that_is_cancelled_while_it_is_rolled_back_ends_as_failed(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> None:
        await step.on_rollback("last", undone.undo, "last")
        await step.options(retry=LATER).on_rollback("flaky", lambda: flaky(undone.log, "flaky", 2))
        await step.sleep("nap", "1h")
        raise LookupError("no seat")

    driver = start(body)
    driver.parks()
    driver.let_time_pass()
    driver.parks()
    cancel(driver)
    driver.parks()  # the undo has to wait for its time still
    driver.let_time_pass()
    assert isinstance(driver.one_pass(), Failed)
    assert driver.run()["status"] == "failed"
    assert undone.log == ["flaky-1", "flaky-2", "last"]


def test_a_run_that_is_cancelled_by_force_while_it_is_rolled_back_is_left(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> None:
        await step.on_rollback("last", undone.undo, "last")
        await step.options(retry=LATER).on_rollback("flaky", lambda: flaky(undone.log, "flaky", 2))
        raise LookupError("no seat")

    driver = start(body)
    driver.parks()
    cancel(driver, force=True)
    assert driver.run()["status"] == "cancelled"
    assert driver.steps()["flaky"]["status"] == "cancelled"
    assert undone.log == ["flaky-1"]


def test_an_undo_that_the_code_has_lost_meanwhile_is_noted(start: Starting, undone: Undone) -> None:
    async def body(step: Any, version: int) -> None:
        if version == 1:
            await step.on_rollback("lost", undone.undo, "lost")
        await step.options(retry=LATER).on_rollback("flaky", lambda: flaky(undone.log, "flaky", 2))
        raise LookupError("no seat")

    driver = start(body)
    driver.parks("r1", 1)
    driver.let_time_pass()
    ended = driver.one_pass("r1", 2)
    assert isinstance(ended, Failed)
    assert undone.log == ["flaky-1", "flaky-2"]
    assert notes_of(driver) == (
        "celery_durable: the undo 'lost' was not done: the code that is deployed now does not register it",
    )


def test_an_undo_that_is_given_something_else_meanwhile_pauses_the_run_where_inputs_are_strict(
    start: Starting, undone: Undone
) -> None:
    async def body(step: Any, given: str) -> None:
        await step.on_rollback("last", undone.undo, "last")
        await step.options(retry=LATER).on_rollback("flaky", lambda name: flaky(undone.log, name, 2), given)
        raise LookupError("no seat")

    driver = start(body, settings=Settings(lease=LEASE, strict_inputs=True))
    driver.parks("r1", "a")
    driver.let_time_pass()
    ended = driver.one_pass("r1", "b")
    assert isinstance(ended, Parked), ended
    assert ended.status == "paused"
    assert undone.log == ["a-1"]
    with driver.store.link() as link:
        assert driver.store.resume_by_hand(link, "r1", Deed("resume", "a person"))
    assert isinstance(driver.one_pass("r1", "a"), Failed)
    assert undone.log == ["a-1", "a-2", "last"]
