"""Undos are steps: what holds for those holds for them, and what can happen to a run meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from celery_durable import PayloadTooLarge, RetryAfter, RunCancelled, aio, step
from celery_durable.engine.executor import Cancelled, Failed
from celery_durable.engine.settings import Settings
from celery_durable.store.records import Deed
from celery_durable.store.store import Store

from .controls import ONCE, Fed, Starting, Undone, cancel, notes_of, recover
from .driving import LEASE
from .test_async import later
from .test_errors import Died
from .test_events import rows
from .test_rollback import LATER
from .test_rollback_retries import flaky


@pytest.mark.parametrize("is_async", [False, True])
def test_an_undo_that_takes_too_long_is_given_up(start: Starting, undone: Undone, is_async: bool) -> None:
    let_go = threading.Event()

    async def slow_later() -> None:
        await asyncio.sleep(60)

    async def body(step: Any) -> None:
        await step.on_rollback("last", undone.undo, "last")
        slow = slow_later if is_async else lambda: let_go.wait(60)
        await step.options(timeout=0.05, retry=ONCE).on_rollback("slow", slow)
        raise LookupError("no seat")

    driver = start(body)
    try:
        assert isinstance(driver.one_pass(), Failed)
    finally:
        let_go.set()
    assert undone.log == ["last"]
    (note,) = notes_of(driver)
    assert note.startswith("celery_durable: the undo 'slow' failed: StepTimeout: ")


def test_an_undo_that_is_done_at_most_once_is_not_done_again_by_the_next_worker(
    start: Starting, undone: Undone
) -> None:
    def dies() -> None:
        undone.log.append("dies")
        raise Died

    async def body(step: Any) -> None:
        await step.on_rollback("last", undone.undo, "last")
        await step.options(at_most_once=True).on_rollback("dies", dies)
        raise LookupError("no seat")

    driver = start(body)
    with pytest.raises(Died):
        driver.one_pass()
    recover(driver)
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, LookupError)
    assert undone.log == ["dies", "last"]
    (note,) = notes_of(driver)
    assert note.startswith("celery_durable: the undo 'dies' failed: StepInterrupted: ")


def test_an_undo_says_when_it_is_to_be_tried_again(start: Starting, undone: Undone) -> None:
    def busy() -> None:
        undone.log.append("busy")
        if len(undone.log) == 1:
            raise RetryAfter("2h")

    async def body(step: Any) -> None:
        await step.on_rollback("busy", busy)
        raise LookupError("no seat")

    driver = start(body)
    parked = driver.parks()
    assert parked.wake_at is not None
    assert 7100 < (parked.wake_at - driver.steps()["busy"]["finished_at"]) / 1_000_000 <= 7200
    driver.let_time_pass()
    assert isinstance(driver.one_pass(), Failed)
    assert notes_of(driver) == ()


USES: dict[str, Callable[[], Any]] = {
    "step.run": lambda: step.run("a", int),
    "step.sleep": lambda: step.sleep("1h"),
    "step.state.increment": lambda: step.state.increment("a"),
    "step.on_rollback": lambda: step.on_rollback("a", int),
    "step.lock": lambda: step.lock("a", "b"),
}


@pytest.mark.parametrize("use", USES)
def test_a_verb_inside_an_undo_is_refused_as_in_any_step(store: Store, use: str) -> None:
    def body() -> None:
        step.options(retry=ONCE).on_rollback("undo", USES[use])
        raise LookupError("no seat")

    driver = Fed(store, body)
    driver.start()
    assert isinstance(driver.one_pass(), Failed)
    (note,) = notes_of(driver)
    assert f"NotInDurableTask: {use} was called inside the step 'undo'" in note
    assert driver.kinds() == [("(rollback)", "rollback"), ("undo", "undo")]


def test_what_an_undo_returns_is_recorded_and_may_be_too_large(start: Starting) -> None:
    async def body(step: Any) -> None:
        await step.options(retry=ONCE).on_rollback("large", lambda: "x" * 2000)
        await step.on_rollback("small", lambda: {"refund": 7})
        raise LookupError("no seat")

    driver = start(body, settings=Settings(lease=LEASE, max_payload=1500))
    assert isinstance(driver.one_pass(), Failed)
    assert driver.steps()["small"]["result"] == '{"refund":7}'
    (note,) = notes_of(driver)
    assert "the undo 'large' failed: PayloadTooLarge" in note


def test_an_input_that_is_too_large_is_told_when_the_undo_is_registered(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> None:
        await step.on_rollback("undo", undone.undo, "x" * 2000)

    driver = start(body, settings=Settings(lease=LEASE, max_payload=1500))
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, PayloadTooLarge)
    assert undone.log == []


# -- What ends the run


def test_a_wait_that_cancels_the_run_when_its_time_is_up(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> None:
        await step.on_rollback("undo", undone.undo, "undo")
        await step.wait_for_event("never", timeout="1h", on_timeout="cancel")

    driver = start(body)
    driver.parks()
    driver.let_time_pass()
    assert isinstance(driver.one_pass(), Cancelled)
    assert undone.log == ["undo"]


def test_a_body_that_cancels_itself(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> None:
        await step.options(retry=LATER).on_rollback("undo", lambda: flaky(undone.log, "undo", 2))
        raise RunCancelled("by itself")

    driver = start(body)
    driver.parks()
    driver.let_time_pass()
    assert driver.one_pass() == Cancelled("by itself")
    assert undone.log == ["undo-1", "undo-2"]


def test_several_errors_of_one_group_undo_once(store: Store, undone: Undone) -> None:
    async def branch(name: str) -> None:
        await aio.step.on_rollback(f"undo {name}", undone.undo_later, name)
        await aio.step.sleep("nap" + name, 0)
        raise ValueError(name)

    async def body() -> None:
        found = await asyncio.gather(branch("a"), branch("b"), return_exceptions=True)
        errors = [error for error in found if isinstance(error, Exception)]
        raise LookupError(len(errors))

    driver = Fed(store, body)
    driver.start()
    ended = driver.finish()
    assert isinstance(ended, Failed)
    assert ended.error.args == (2,)
    assert undone.log == ["b", "a"]


# -- What happens meanwhile


def test_a_run_that_is_paused_between_its_undos_goes_on_with_them(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> None:
        await step.on_rollback("last", undone.undo, "last")
        await step.options(retry=LATER).on_rollback("flaky", lambda: flaky(undone.log, "flaky", 2))
        raise LookupError("no seat")

    driver = start(body)
    driver.parks()
    with driver.store.link() as link:
        assert driver.store.pause_by_hand(link, "r1", Deed("pause", "a person"))
        assert driver.run()["status"] == "paused"
        assert driver.store.resume_by_hand(link, "r1", Deed("resume", "a person"))
    later(driver, 7200)
    assert isinstance(driver.one_pass(), Failed)
    assert undone.log == ["flaky-1", "flaky-2", "last"]


def test_a_run_that_was_rolled_back_is_not_retried(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> None:
        await step.on_rollback("undo", undone.undo, "undo")
        raise LookupError("no seat")

    driver = start(body)
    driver.one_pass()
    with driver.store.link() as link:
        assert driver.store.retry_failed(link, "r1", Deed("retry", "a person")) == "undone"
    assert driver.run()["status"] == "failed"


def test_what_the_body_has_called_is_cancelled_before_anything_is_undone(store: Store, undone: Undone) -> None:
    """A branch fails beside a call: the block cancels that, and then the body is left."""
    seen: list[Any] = []

    def body() -> None:
        step.on_rollback("undo", lambda: seen.extend(run.cancelling or run.status for run in children(store)))
        with step.parallel() as p:
            p.call("call", "child")
            p.options(retry=LATER).run("fails", lambda: flaky(undone.log, "fails", 9))

    driver = Fed(store, body)
    driver.start()
    assert isinstance(driver.finish(), Failed)
    assert len(seen) == 1
    assert seen[0] == "cancelled" or "does not wait for it any more" in seen[0]


def children(store: Store) -> list[Any]:
    return [run for run in rows(store, "run") if run.parent_id is not None]


def test_a_cancelled_run_cancels_what_it_has_called_before_anything_is_undone(start: Starting) -> None:
    seen: list[Any] = []

    async def body(step: Any) -> None:
        await step.on_rollback("undo", lambda: seen.extend(run.status for run in children(driver.store)))
        await step.call("call", "child")

    driver = start(body)
    driver.parks()
    cancel(driver)
    assert isinstance(driver.one_pass(), Cancelled)
    assert seen == ["cancelled"]
