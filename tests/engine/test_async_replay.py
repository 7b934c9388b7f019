"""A replay sees what the first pass saw: order, winners, numbers; also where a worker died in between."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from celery_durable.aio import step
from celery_durable.engine.control import RunRetry
from celery_durable.engine.executor import Finished, Parked
from celery_durable.store.store import Store

from .blocks import end_child
from .driving import Driver
from .test_async import awaited, later, passes, slept
from .test_events import dispatch, emit

Started = Callable[..., Driver]

since_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout and TaskGroup came with 3.11")


@step
async def fetch(number: int) -> int:
    return int(await awaited(number))


# -- The order of answers


@pytest.mark.parametrize("fn", [slept, awaited])
def test_the_order_of_completion_is_replayed(started: Started, fn: Callable[..., Any]) -> None:
    async def branch(number: int, log: list[Any]) -> None:
        for part in range(3):
            value = await step.run(f"{number}-{part}", fn, number, 0.005 * ((number * 7 + part) % 4))
            log.append((number, part, value))
        await step.sleep(f"nap-{number}", "1h")
        log.append((number, "slept"))

    async def body(log: list[Any]) -> str:
        await asyncio.gather(*[branch(number, log) for number in range(4)])
        await step.sleep("nap", "1h")
        return "done"

    ended, logs = passes(started(body))
    assert ended == Finished("done")
    assert [len(log) for log in logs] == [12, 16, 16]


def test_answers_from_outside_come_in_the_order_of_the_first_pass(store: Store, started: Started) -> None:
    async def body(log: list[Any]) -> str:
        async def wait(name: str) -> None:
            await step.wait_for_event(name)
            log.append(name)

        async def call(name: str) -> None:
            await step.call(name, "child")
            log.append(name)

        await asyncio.gather(wait("a"), call("b"), wait("c"), call("d"))
        await step.sleep("nap", "1h")
        return "done"

    driver = started(body)
    driver.one_pass("r1", [])
    end_child(driver, "d", int)
    dispatch(store, emit(store, "c"))
    log: list[Any] = []
    driver.one_pass("r1", log)
    assert sorted(log) == ["c", "d"]
    end_child(driver, "b", int)
    dispatch(store, emit(store, "a"))
    ended, logs = passes(driver)
    assert ended == Finished("done")
    assert logs[-1][:2] == log
    assert sorted(logs[-1]) == ["a", "b", "c", "d"]


def test_an_answer_from_outside_comes_after_what_a_replay_has_yet_to_ask_for(store: Store, started: Started) -> None:
    async def body(log: list[Any]) -> str:
        async def behind_a_thread() -> None:
            await asyncio.to_thread(slept, None, 0.1)  # no step: each pass waits for it
            log.append(await step.run("behind a thread", awaited, "behind a thread"))

        async def outside() -> None:
            await step.wait_for_event("told")
            log.append("told")

        await asyncio.gather(behind_a_thread(), outside())
        await step.sleep("nap", "1h")
        return "done"

    driver = started(body)
    first: list[Any] = []
    assert driver.one_pass("r1", first) == Parked("the event 'told'")
    assert first == ["behind a thread"]
    assert dispatch(store, emit(store, "told")) == ["r1"]
    ended, logs = passes(driver)
    assert ended == Finished("done")
    assert logs == [["behind a thread", "told"]] * 2


def test_sleeps_that_are_over_come_in_the_order_of_their_ends(started: Started) -> None:
    async def nap(hours: int, log: list[Any]) -> None:
        await step.sleep(f"nap-{hours}", f"{hours}h")
        log.append(hours)

    async def body(log: list[Any]) -> str:
        await asyncio.gather(*[nap(hours, log) for hours in (3, 1, 2)])
        await step.sleep("nap", "1h")
        return "done"

    driver = started(body)
    driver.one_pass("r1", [])
    later(driver, 3601)
    log: list[Any] = []
    driver.one_pass("r1", log)
    assert log == [1]
    later(driver, 3 * 3600)
    log = []
    driver.one_pass("r1", log)
    assert log[0] == 1
    again: list[Any] = []
    later(driver, 3601)
    assert driver.one_pass("r1", again) == Finished("done")
    assert again == log


@pytest.mark.parametrize("fn", [slept, awaited])
def test_the_winner_stays_the_winner(started: Started, fn: Callable[..., Any]) -> None:
    calls: list[str] = []

    async def body(log: list[Any]) -> Any:
        tasks = [
            asyncio.ensure_future(step.run("slow", fn, "slow", 0.3)),
            asyncio.ensure_future(step.run("quick", fn, "quick", 0.01)),
        ]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        (winner,) = [task.result() for task in done]
        log.append(winner)
        calls.append(winner)
        await step.sleep("nap", "1h")
        paid = await step.run(f"pay {winner}", awaited, winner)
        log.extend(task.cancelled() for task in tasks)
        await step.sleep("other nap", "1h")
        return paid

    driver = started(body)
    ended, logs = passes(driver)
    assert ended == Finished("quick")
    assert logs[-1] == ["quick", True, False]
    assert driver.steps()["slow"]["status"] == "cancelled"


def test_two_that_end_together_are_both_there_or_one_after_the_other(started: Started) -> None:
    async def body(log: list[Any]) -> str:
        tasks = {asyncio.ensure_future(step.run(f"{number}", awaited, number, 0)) for number in range(5)}
        while tasks:
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            log.append(sorted(task.result() for task in done))
        await step.sleep("nap", "1h")
        return "done"

    ended, logs = passes(started(body))
    assert ended == Finished("done")
    assert sorted(number for numbers in logs[0] for number in numbers) == [0, 1, 2, 3, 4]


def test_losers_are_not_run_again(started: Started) -> None:
    calls: list[str] = []

    async def slow() -> None:
        calls.append("slow")
        await asyncio.sleep(60 if len(calls) == 1 else 0)

    async def body(log: list[Any]) -> str:
        task = asyncio.ensure_future(step.run("slow", slow))
        await step.run("quick", awaited, 1, 0.01)
        task.cancel()
        log.append([type(e).__name__ for e in await asyncio.gather(task, return_exceptions=True)])
        for number in range(2):
            await step.sleep(f"nap-{number}", "1h")
        return "done"

    ended, logs = passes(started(body))
    assert ended == Finished("done")
    assert logs == [[["CancelledError"]]] * 3
    assert calls == ["slow"]


def test_a_loser_that_had_ended_as_well_stays_cancelled(started: Started) -> None:
    """Both are recorded together; the body is given the first, and cancels the second."""

    async def body(log: list[Any]) -> str:
        gate = asyncio.Event()

        async def gated(value: str) -> str:
            await gate.wait()
            return value

        tasks = [asyncio.ensure_future(step.run(name, gated, name)) for name in ("first", "second")]
        await asyncio.sleep(0.01)
        gate.set()
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        log.append(sorted(task.result() for task in done))
        for task in pending:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        log.append([value if isinstance(value, str) else "cancelled" for value in ended])
        await step.sleep("nap", "1h")
        return "done"

    ended, logs = passes(started(body))
    assert ended == Finished("done")
    assert logs == [[["first"], ["first", "cancelled"]]] * 2


async def at_once(value: Any) -> Any:
    """An async step that ends before the loop waits for anything."""
    return value


def test_losers_that_end_before_the_first_answer_is_told_do_not_go_on(started: Started) -> None:
    """All are recorded together in the first pass, whose clock stands still as in a replay; the body is given the first
    answer, and cancels the others."""

    async def body(log: list[Any]) -> str:
        async def branch(number: int) -> None:
            log.append(await step.run(f"{number}-first", at_once, number))
            log.append(await step.run(f"{number}-second", at_once, number))

        first = asyncio.ensure_future(step.run("first", at_once, "first"))
        tasks = {first, *(asyncio.ensure_future(branch(number)) for number in range(8))}
        done, losers = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        log.append([task.result() for task in done])
        for task in losers:
            task.cancel()
        await asyncio.gather(*losers, return_exceptions=True)
        log.append(sum(task.cancelled() for task in losers))
        await step.sleep("nap", "1h")
        return "done"

    driver = started(body)
    ended, logs = passes(driver)
    assert ended == Finished("done")
    assert logs == [[["first"], 8]] * 2
    assert not [name for name in driver.steps() if name.endswith("second")]


@pytest.mark.parametrize("beside", ["drawn", "emit", "at most once"])
def test_a_step_that_ends_just_before_another_one_writes(started: Started, beside: str) -> None:
    """Its record goes along with what the other one writes, and it is answered all the same."""

    async def body() -> list[Any]:
        gate = asyncio.Event()

        async def gated() -> str:
            await gate.wait()
            return "gated"

        async def other() -> Any:
            await asyncio.sleep(0.01)
            gate.set()
            for _ in range(5):
                await asyncio.sleep(0)
            if beside == "drawn":
                await step.random()
            elif beside == "emit":
                await step.emit("tell", "told")
            else:
                await step.options(at_most_once=True).run("pay", awaited, 1)
            return beside

        return list(await asyncio.gather(step.run("gated", gated), other()))

    assert started(body).one_pass() == Finished(["gated", beside])


@since_3_11
def test_a_step_that_was_too_slow_stays_so(started: Started) -> None:
    calls: list[str] = []

    async def slow() -> str:
        calls.append("slow")
        await asyncio.sleep(60 if len(calls) == 1 else 0)
        return "in time"

    async def body(log: list[Any]) -> str:
        try:
            async with asyncio.timeout(0.03):
                log.append(await step.run("slow", slow))
        except TimeoutError:
            log.append("timeout")
        await step.run("next", awaited, 1)
        await step.sleep("nap", "1h")
        return "done"

    ended, logs = passes(started(body))
    assert ended == Finished("done")
    assert logs == [["timeout"]] * 2
    assert calls == ["slow"]


@since_3_11
def test_a_step_that_was_too_slow_stays_so_when_the_run_is_retried(started: Started) -> None:
    calls: list[str] = []

    async def slow() -> str:
        calls.append("slow")
        await asyncio.sleep(60 if len(calls) == 1 else 0)
        return "in time"

    async def body(log: list[Any]) -> str:
        try:
            async with asyncio.timeout(0.03):
                log.append(await step.run("slow", slow))
        except TimeoutError as error:
            log.append("timeout")
            if len(calls) == 1 and not log[1:] and "retried" not in calls:
                calls.append("retried")
                raise RunRetry(error, 1) from None
        return "done"

    ended, logs = passes(started(body))
    assert ended == Finished("done")
    assert logs == [["timeout"]] * 2
    assert calls == ["slow", "retried"]


@since_3_11
def test_a_step_that_was_in_time_stays_so(started: Started) -> None:
    async def body(log: list[Any]) -> str:
        try:
            async with asyncio.timeout(600):
                log.append(await step.run("quick", awaited, "in time"))
                await step.sleep("nap", "1h")
        except TimeoutError:
            log.append("timeout")
        await step.sleep("other nap", "1h")
        return "done"

    driver = started(body)
    driver.one_pass("r1", [])
    later(driver, 700)
    ended, logs = passes(driver)
    assert ended == Finished("done")
    assert logs == [["in time", "timeout"]] * 2


# -- Numbers


def test_steps_are_numbered_within_their_branch(started: Started) -> None:
    turn = [0]

    async def handle(number: int) -> list[int]:
        await asyncio.sleep(0.01 * ((number * turn[0]) % 3))
        found = [await fetch(number), await fetch(number + 10)]
        await step.sleep("1h")
        return [*found, await fetch(number + 20)]

    async def body() -> list[Any]:
        turn[0] += 1
        return await asyncio.gather(*[handle(number) for number in range(3)], fetch(99))

    driver = started(body)
    assert driver.value() == [[0, 10, 20], [1, 11, 21], [2, 12, 22], 99]
    names = ["fetch", "fetch#2", "sleep", "fetch#3"]
    branches = ["handle", "handle#2", "handle#3"]
    assert sorted(driver.steps()) == sorted([*(f"{branch}/{name}" for branch in branches for name in names), "fetch"])


def test_branches_of_branches(started: Started) -> None:
    async def inner(number: int) -> int:
        await step.sleep("1h")
        return await fetch(number)

    async def outer(number: int) -> Any:
        await asyncio.sleep(0.01 * (3 - number))
        return await asyncio.gather(inner(number), inner(number + 1))

    async def body() -> Any:
        return await asyncio.gather(outer(0), outer(1))

    driver = started(body)
    assert driver.value() == [[0, 1], [1, 2]]
    assert sorted(driver.steps()) == sorted(
        f"{outer_}/{inner_}/{name}"
        for outer_ in ("outer", "outer#2")
        for inner_ in ("inner", "inner#2")
        for name in ("fetch", "sleep")
    )
