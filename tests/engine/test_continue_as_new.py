"""``step.continue_as_new``: the body begins again, with other arguments and an empty history, as the same run."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from celery_durable import NotInDurableTask, NotSerializable, aio, step
from celery_durable.core.codec import decode
from celery_durable.core.duration import SECOND
from celery_durable.engine.control import RunRetry
from celery_durable.engine.current import current_pass
from celery_durable.engine.executor import Failed, Finished, Gone, Parked
from celery_durable.store.store import Store
from tests.kill.killing import Commits, lose

from .blocks import child_of, end_child
from .controls import ONCE, Fed, Starting, cancel, recover
from .driving import Driver
from .test_events import dispatch, emit, rows
from .test_lock import turns


def at_last(driver: Driver, run_id: str = "r1", most: int = 30) -> Any:
    """The value of the last beginning. What begins anew is due, and what sleeps is woken."""
    for _ in range(most):
        ended = driver.one_pass(run_id)
        if not isinstance(ended, Parked):
            assert isinstance(ended, Finished), ended
            return ended.value
        if ended.waiting_on != "its next beginning":
            driver.let_time_pass(run_id)
    raise AssertionError(f"the run {run_id} did not end in {most} passes")


# -- Another beginning


def test_the_body_begins_again_with_other_arguments_and_no_history(start: Starting) -> None:
    pages: list[int] = []

    async def body(step: Any, page: int = 1) -> str:
        await step.run("read", pages.append, page)
        await step.sleep("nap", "1h")
        if page < 3:
            await step.continue_as_new(page + 1)
        return f"{page} pages"

    driver = start(body)
    driver.parks()
    driver.let_time_pass()
    assert driver.parks() == Parked("its next beginning")
    run = driver.run()
    assert (run["status"], run["generation"], run["due_at"] is not None) == ("suspended", 1, True)
    assert decode(run["arguments"]) == [[2], {}]
    assert driver.steps() == {}
    assert driver.dispatcher.followed.wake == ("r1",)
    assert at_last(driver) == "3 pages"
    assert pages == [1, 2, 3]
    assert driver.kinds() == [("read", "run"), ("nap", "sleep")]
    assert driver.run()["generation"] == 2
    assert len(rows(driver.store, "run")) == 1


def test_arguments_by_name_are_kept(start: Starting) -> None:
    async def body(step: Any) -> None:
        await step.continue_as_new(1, mode="fast", items={"a": (1, 2)})

    driver = start(body)
    driver.parks()
    assert decode(driver.run()["arguments"]) == [[1], {"mode": "fast", "items": {"a": (1, 2)}}]


def test_a_long_chain_of_beginnings_leaves_one_short_history(start: Starting) -> None:
    async def body(step: Any, number: int = 0) -> int:
        await step.run("work", int)
        if number < 25:
            await step.continue_as_new(number + 1)
        return number

    driver = start(body)
    assert at_last(driver) == 25
    assert driver.kinds() == [("work", "run")]
    assert driver.run()["generation"] == 25


def test_nothing_after_it_is_reached_whatever_is_caught(start: Starting) -> None:
    reached: list[str] = []

    async def body(step: Any, again: bool = True) -> str:
        if not again:
            return "anew"
        try:
            await step.continue_as_new(False)
        except BaseException:
            with contextlib.suppress(BaseException):
                await step.run("in except", reached.append, "in except")
            return "caught"
        finally:
            with contextlib.suppress(BaseException):
                await step.run("in finally", reached.append, "in finally")
        return "went on"

    driver = start(body)
    assert at_last(driver) == "anew"
    assert reached == []


def test_arguments_that_can_not_be_stored_are_told_in_the_body(start: Starting) -> None:
    async def body(step: Any) -> str:
        await step.run("before", int)
        try:
            await step.continue_as_new(object())
        except NotSerializable:
            return "told"
        return "not reached"

    driver = start(body)
    assert driver.value() == "told"
    assert driver.kinds() == [("before", "run")]


def test_it_is_asked_for_in_the_body_of_a_run(store: Store) -> None:
    with pytest.raises(NotInDurableTask, match=r"step\.continue_as_new was called in "):
        step.continue_as_new()
    driver = Driver(store, lambda: step.options(retry=ONCE).run("outer", step.continue_as_new, 1))
    driver.start()
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert "step.continue_as_new was called inside the step 'outer'" in str(ended.error)


# -- What is given up, and what stays


def test_waits_and_calls_that_are_open_are_given_up(store: Store) -> None:
    async def body(again: bool = True) -> str:
        if not again:
            await aio.step.sleep("nap", "1h")
            return "anew"
        beside = [
            asyncio.ensure_future(aio.step.wait_for_event("never")),
            asyncio.ensure_future(aio.step.call("call", "child")),
            asyncio.ensure_future(aio.step.call("task", "plain")),
        ]
        await aio.step.sleep("nap", "1h")
        assert len(beside) == 3
        return await aio.step.continue_as_new(False)

    driver = Fed(store, body)
    driver.start()
    driver.parks()
    children = {name: child_of(driver, name) for name in ("call", "task")}
    Driver(store, lambda: step.sleep("nap", "1h")).one_pass(children["call"])
    assert len(rows(store, "wait")) == 1
    driver.let_time_pass()
    assert driver.parks() == Parked("its next beginning")
    assert rows(store, "wait") == []
    assert driver.run(children["call"])["cancelling"] is not None
    assert driver.run(children["task"])["status"] == "cancelled"
    assert driver.dispatcher.followed.revoke == (children["task"],)
    assert set(driver.dispatcher.followed.wake) >= {"r1", children["call"]}
    driver.parks()
    driver.let_time_pass()
    assert driver.value() == "anew"


def test_a_lock_is_given_back(start: Starting) -> None:
    async def body(step: Any, again: bool = True) -> None:
        async with step.lock("mine", "account-7"):
            await step.sleep("nap", "1h")
            if again:
                await step.continue_as_new(False)

    first, second = (start(body, run_id=run_id) for run_id in ("r1", "r2"))
    first.parks("r1")
    second.parks("r2")
    first.let_time_pass("r1")
    first.parks("r1")
    assert first.let_in() == ["r2"]
    assert first.parks("r1") == Parked("the lock 'account-7'")  # again, behind the other
    assert turns(first.store) == [("r2", "account-7", "has it"), ("r1", "account-7", "waits")]


def test_undos_are_forgotten(start: Starting) -> None:
    undone: list[int] = []

    async def body(step: Any, number: int = 0) -> None:
        await step.on_rollback("undo", undone.append, number)
        if number < 2:
            await step.continue_as_new(number + 1)
        raise LookupError("no")

    driver = start(body)
    for _ in range(2):
        driver.parks()
    assert isinstance(driver.one_pass(), Failed)
    assert undone == [2]


def test_what_is_called_and_what_is_told_to_others_differs_each_time(start: Starting) -> None:
    keys: list[str] = []
    children: list[str] = []

    async def body(step: Any, number: int = 0) -> str:
        await step.run("pay", lambda: keys.append(of_current()))
        found = await step.call("call", "child")
        if number < 2:
            await step.continue_as_new(number + 1)
        return str(found)

    driver = start(body)
    for _ in range(3):
        driver.parks()
        children.append(child_of(driver, "call"))
        end_child(driver, "call", lambda: f"child {len(children)}")
        ended = driver.one_pass()
    assert ended == Finished("child 3")
    assert len(set(keys)) == len(set(children)) == 3
    assert keys[0] == "r1:pay"


def of_current() -> str:
    return step.current().idempotency_key


def test_an_event_is_not_had_twice(start: Starting) -> None:
    async def body(step: Any, seen: tuple[int, ...] = ()) -> list[int]:
        event = await step.wait_for_event("news")
        seen = (*seen, event.payload)
        if len(seen) < 3:
            await step.continue_as_new(seen)
        return list(seen)

    driver = start(body)
    for number in (1, 2):
        dispatch(driver.store, emit(driver.store, "news", number))
    for _ in range(2):
        assert driver.parks() == Parked("its next beginning")
    assert driver.parks() == Parked("the event 'news'")
    assert dispatch(driver.store, emit(driver.store, "news", 3)) == ["r1"]
    assert driver.value() == [1, 2, 3]


def test_retries_and_the_deadline_begin_anew(start: Starting) -> None:
    retries: list[int] = []

    async def body(step: Any, again: bool = True) -> None:
        run = current_pass.get()
        assert run is not None
        retries.append(run.claim.retries)
        if again and run.claim.retries < 2:
            raise RunRetry(ValueError("again"), 1)
        if again:
            await step.continue_as_new(False)

    driver = start(body)
    driver.run_timeout = 3600 * SECOND
    for _ in range(2):
        driver.parks()
        driver.let_time_pass()
    before = driver.run()["deadline_at"]
    assert driver.parks() == Parked("its next beginning")
    assert driver.run()["deadline_at"] is None
    assert driver.value() is None
    assert retries == [0, 1, 2, 0]
    assert driver.run()["deadline_at"] > before
    assert driver.run()["retries"] == 0


def test_progress_and_changes_of_the_code_begin_anew_and_state_stays(start: Starting) -> None:
    async def body(step: Any, number: int = 0) -> list[Any]:
        for done in range(3 - number):
            await step.set_progress(done, note=f"beginning {number}")
        found = [await step.patched("change"), await step.state.increment("count")]
        if number < 1:
            await step.continue_as_new(number + 1)
        return found

    driver = start(body)
    driver.parks()
    assert driver.run()["reported"] is None
    assert driver.value() == [True, 2]
    assert decode(driver.run()["reported"])[1:] == [1, None, "beginning 1"]


def test_whoever_has_called_the_run_gets_the_result_of_its_last_beginning(store: Store, start: Starting) -> None:
    async def body(step: Any) -> Any:
        return await step.call("call", "child")

    def child(number: int = 0) -> int:
        if number < 2:
            step.continue_as_new(number + 1)
        return number

    driver = start(body)
    driver.parks()
    below = Fed(store, child)
    assert at_last(below, child_of(driver, "call")) == 2
    assert driver.value() == 2


# -- What comes between


def test_a_run_that_is_cancelled_meanwhile_does_not_begin_again(start: Starting) -> None:
    async def body(step: Any, again: bool = True) -> None:
        await step.run("before", int)
        cancel(driver)
        await step.continue_as_new(False)

    driver = start(body)
    assert driver.parks().waiting_on == "its cancelling"
    assert driver.run()["generation"] == 0
    assert list(driver.steps()) == ["before"]


def test_a_worker_that_has_lost_its_run_does_not_begin_it_again(start: Starting) -> None:
    async def body(step: Any, number: int = 0) -> str:
        await step.run("before", int)
        if number == 0 and driver.run()["recoveries"] == 0:
            recover(driver)
            await step.continue_as_new("of the dead one")
        return f"beginning {number}"

    driver = start(body)
    assert isinstance(driver.one_pass(), Gone)
    assert driver.value() == "beginning 0"
    assert driver.run()["generation"] == 0


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_connection_that_breaks_at_any_commit(any_store: Store, when: str) -> None:
    log: list[str] = []

    def body(number: int = 0) -> str:
        step.run("work", log.append, f"work {number}")
        with step.lock("mine", "account-7"):
            if number < 2:
                step.continue_as_new(number + 1)
        return f"beginning {number}"

    plain = Fed(any_store, body)
    plain.start("plain")
    with Commits(any_store.engine) as commits:
        assert at_last(plain, "plain") == "beginning 2"
    assert commits.commits >= 12  # claim, work, lock, over; that again; claim, work, lock, release, finish
    for count in range(1, commits.commits + 1):
        run_id = f"{when} {count}"
        log.clear()
        driver = Fed(any_store, body)
        driver.start(run_id)
        with Commits(any_store.engine) as hooks:
            getattr(hooks, when)[count] = lose
            assert at_last(driver, run_id) == "beginning 2", run_id
        assert driver.run(run_id)["generation"] == 2
        assert [name for name, _ in driver.kinds(run_id)] == ["work", "mine", "mine/release"]
        assert log == ["work 0", "work 1", "work 2"]
        assert turns(any_store) == []
