"""Undos by ``step.on_rollback``: when they are done, in what order, with what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from celery_durable import (
    DuplicateStep,
    NotInDurableTask,
    NotSerializable,
    Retry,
    RunCancelled,
    aio,
    step,
)
from celery_durable.core.codec import decode
from celery_durable.engine.control import RunRetry
from celery_durable.engine.executor import Cancelled, Failed, Finished, Parked
from celery_durable.store.store import Store

from .blocks import child_of
from .controls import ONCE, Fed, Starting, Undone, cancel, notes_of, with_verbs
from .driving import Driver

LATER = Retry(max_attempts=3, delay="1h", jitter=False)


def broken(*_: Any) -> None:
    raise ConnectionError("refused")


# -- When


def test_undos_are_done_in_reverse_order_when_an_error_leaves_the_body(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> None:
        for name in ("flight", "hotel", "car"):
            await step.run(f"book {name}", int)
            await step.on_rollback(f"cancel {name}", undone.undo, name)
        raise LookupError("no seat")

    driver = start(body)
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, LookupError)
    assert undone.log == ["car", "hotel", "flight"]
    assert driver.run()["status"] == "failed"
    undos = [(name, row["status"], row["attempts"]) for name, row in driver.steps().items() if row["kind"] == "undo"]
    assert undos == [
        ("cancel car", "completed", 1),
        ("cancel hotel", "completed", 1),
        ("cancel flight", "completed", 1),
    ]


def test_nothing_is_undone_when_the_run_succeeds(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> str:
        await step.on_rollback("undo", undone.undo, "undo")
        await step.sleep("nap", "1h")
        return "done"

    driver = start(body)
    assert driver.value() == "done"
    assert undone.log == []
    assert driver.kinds() == [("nap", "sleep")]


def test_only_what_was_registered_is_undone(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> None:
        await step.on_rollback("first", undone.undo, "first")
        await step.options(retry=ONCE).run("fails", broken)
        await step.on_rollback("second", undone.undo, "second")

    driver = start(body)
    assert isinstance(driver.finish(), Failed)
    assert undone.log == ["first"]
    assert "second" not in driver.steps()


def test_an_error_that_the_body_deals_with_undoes_nothing(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> str:
        await step.on_rollback("undo", undone.undo, "undo")
        try:
            await step.options(retry=ONCE).run("fails", broken)
        except ConnectionError as error:
            return str(await step.run("instead", str, error.args[0]))
        return "not reached"

    assert start(body).value() == "refused"
    assert undone.log == []


def test_a_result_that_can_not_be_stored_undoes(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> object:
        await step.on_rollback("undo", undone.undo, "undo")
        return object()

    ended = start(body).finish()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, NotSerializable)
    assert undone.log == ["undo"]


def test_a_cancelled_run_is_undone_after_its_body_has_seen_it(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> None:
        await step.on_rollback("undo", undone.undo, "undo")
        try:
            await step.wait_for_event("never")
        except RunCancelled as error:
            undone.log.append(f"told: {error}")
            raise
        finally:
            await step.run("tidy", undone.undo, "tidy")

    driver = start(body)
    driver.parks()
    cancel(driver, reason="because")
    assert driver.one_pass() == Cancelled("because")
    assert undone.log == ["told: because", "tidy", "undo"]
    assert driver.run()["status"] == "cancelled"
    assert [kind for _, kind in driver.kinds()] == ["wait", "run", "rollback", "undo"]


def test_a_body_can_not_talk_itself_out_of_its_undos(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> str:
        await step.on_rollback("undo", undone.undo, "undo")
        try:
            await step.sleep("nap", "1h")
        except RunCancelled:
            return "fine"
        return "slept"

    driver = start(body)
    driver.parks()
    cancel(driver)
    assert isinstance(driver.one_pass(), Cancelled)
    assert undone.log == ["undo"]


def test_a_run_that_is_cancelled_by_force_is_left_as_it_is(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> None:
        await step.on_rollback("undo", undone.undo, "undo")
        await step.sleep("nap", "1h")

    driver = start(body)
    driver.parks()
    cancel(driver, force=True)
    assert driver.run()["status"] == "cancelled"
    assert undone.log == []
    assert driver.kinds() == [("nap", "sleep")]


@pytest.mark.parametrize("succeeds", [True, False])
def test_a_retry_of_the_run_undoes_nothing_until_it_is_the_last(
    start: Starting, undone: Undone, succeeds: bool
) -> None:
    tries: list[int] = []

    async def body(step: Any) -> str:
        tries.append(1)
        await step.on_rollback("undo", undone.undo, "undo")
        if len(tries) <= 2:
            raise RunRetry(ValueError("again"), 1)
        if not succeeds:
            raise ValueError("for good")
        return "done"

    driver = start(body)
    for _ in range(2):
        driver.parks()
        assert undone.log == []
        driver.let_time_pass()
    assert isinstance(driver.one_pass(), Finished if succeeds else Failed)
    assert undone.log == ([] if succeeds else ["undo"])


def test_code_that_does_not_fit_pauses_the_run_and_undoes_nothing(start: Starting, undone: Undone) -> None:
    async def body(step: Any, version: int) -> None:
        await step.on_rollback("undo", undone.undo, "undo")
        await (step.run("a", int) if version == 1 else step.sleep("a", "1h"))
        await step.sleep("nap", "1h")

    driver = start(body)
    driver.parks("r1", 1)
    driver.let_time_pass()
    ended = driver.one_pass("r1", 2)
    assert isinstance(ended, Parked)
    assert ended.status == "paused"
    assert undone.log == []


def test_a_called_run_that_is_cancelled_with_its_caller_is_undone(
    store: Store, start: Starting, undone: Undone
) -> None:
    async def body(step: Any) -> None:
        await step.on_rollback("undo above", undone.undo, "above")
        await step.call("call", "child")

    async def child(step: Any) -> None:
        await step.on_rollback("undo below", undone.undo, "below")
        await step.wait_for_event("never")

    driver = start(body)
    driver.parks()
    below, child_id = Fed(store, with_verbs("def", child)), child_of(driver, "call")
    below.parks(child_id)
    cancel(driver)
    assert isinstance(driver.one_pass(), Cancelled)
    assert undone.log == ["above"]
    assert isinstance(below.one_pass(child_id), Cancelled)
    assert undone.log == ["above", "below"]


def test_a_block_whose_branch_fails_is_undone(store: Store, undone: Undone) -> None:
    def body() -> None:
        step.on_rollback("undo", undone.undo, "undo")
        with step.parallel() as p:
            p.options(retry=ONCE).run("fails", broken)
            p.sleep("nap", "1h")

    driver = Driver(store, body)
    driver.start()
    assert isinstance(driver.one_pass(), Failed)
    assert undone.log == ["undo"]
    assert driver.steps()["nap"]["status"] == "cancelled"


def test_a_gather_whose_branch_fails_is_undone(store: Store, undone: Undone) -> None:
    async def branch(name: str) -> None:
        await aio.step.run(f"book {name}", int)
        await aio.step.on_rollback(f"undo {name}", undone.undo, name)
        if name == "b":
            await aio.step.options(retry=ONCE).run("fails", broken)
        await aio.step.sleep(f"nap {name}", "1h")

    async def body() -> None:
        await asyncio.gather(branch("a"), branch("b"))

    driver = Driver(store, body)
    driver.start()
    assert isinstance(driver.finish(), Failed)
    assert sorted(undone.log) == ["a", "b"]


# -- With what


def test_arguments_are_recorded_as_they_were_when_the_undo_was_registered(start: Starting) -> None:
    given: list[Any] = []

    async def body(step: Any) -> None:
        order = {"id": 7, "items": ["a"]}
        await step.on_rollback("refund", lambda *args, **kwargs: given.append((args, kwargs)), order, reason="failed")
        order["items"].append("b")
        raise ValueError("no")

    driver = start(body)
    assert isinstance(driver.one_pass(), Failed)
    assert given == [(({"id": 7, "items": ["a"]},), {"reason": "failed"})]
    assert decode(driver.steps()["refund"]["input"]) == [[{"id": 7, "items": ["a"]}], {"reason": "failed"}]


def test_an_argument_that_can_not_be_stored_is_told_when_the_undo_is_registered(start: Starting) -> None:
    done: list[str] = []

    async def body(step: Any) -> None:
        try:
            await step.on_rollback("undo", broken, object())
        except NotSerializable as error:
            done.append(str(error))
            raise
        await step.run("not reached", done.append, "charged")

    driver = start(body)
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, NotSerializable)
    (said,) = done
    assert "'undo'" in said
    assert driver.steps() == {}


def test_an_undo_knows_which_step_it_is(start: Starting) -> None:
    seen: list[Any] = []

    def undo() -> None:
        context = step.current()
        seen.append((context.run_id, context.step_id, context.attempt, context.idempotency_key))

    async def body(step: Any) -> None:
        await step.on_rollback("undo", undo)
        raise ValueError("no")

    start(body).finish()
    assert seen == [("r1", "undo", 1, "r1:undo")]


def test_async_functions_are_undos_too(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> None:
        await step.on_rollback("first", undone.undo_later, "first")
        await step.on_rollback("second", undone.undo, "second")
        await step.options(timeout="20s").on_rollback("third", undone.undo_later, "third")
        raise ValueError("no")

    driver = start(body)
    assert isinstance(driver.one_pass(), Failed)
    assert undone.log == ["third", "second", "first"]
    assert notes_of(driver) == ()


@pytest.mark.parametrize("other", ["undo", "run", "sleep"])
def test_undos_share_their_ids_with_all_steps(start: Starting, undone: Undone, other: str) -> None:
    async def body(step: Any) -> None:
        await step.on_rollback("a", undone.undo, "a")
        if other == "undo":
            await step.on_rollback("a", undone.undo, "b")
        else:
            await (step.run("a", int) if other == "run" else step.sleep("a", "1h"))

    driver = start(body)
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, DuplicateStep)
    assert undone.log == ["a"]  # of which the first use was right


USES: dict[str, Callable[[], Any]] = {
    "def": lambda: step.on_rollback("a", int),
    "options": lambda: step.options(retry=LATER).on_rollback("a", int),
}


@pytest.mark.parametrize("use", USES)
def test_an_undo_is_registered_in_the_body_of_a_run(store: Store, use: str) -> None:
    with pytest.raises(NotInDurableTask, match=r"step\.on_rollback was called in "):
        USES[use]()
    driver = Driver(store, lambda: step.options(retry=ONCE).run("outer", USES[use]))
    driver.start()
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, NotInDurableTask)
    assert "step.on_rollback was called inside the step 'outer'" in str(ended.error)
