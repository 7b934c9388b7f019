"""What asyncio has for doing several things at once, with durable steps in it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from celery_durable.aio import step
from celery_durable.engine.executor import Finished, Parked
from celery_durable.store.store import Store

from .blocks import ONCE, check_nothing_dangles, end_child
from .driving import Driver
from .test_async import awaited, later, passes, slept
from .test_events import dispatch, emit, rows

Started = Callable[..., Driver]

since_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout and TaskGroup came with 3.11")


async def fail(message: str, seconds: float = 0.0) -> Any:
    await asyncio.sleep(seconds)
    raise ValueError(message)


# -- gather and task groups


def test_a_gather_of_every_kind_of_step(store: Store, started: Started) -> None:
    async def body(log: list[Any]) -> list[Any]:
        found = await asyncio.gather(
            step.run("def", slept, 1),
            step.run("async def", awaited, 2),
            step.sleep("nap", "1h"),
            step.call("kid", "child"),
            step.wait_for_event("w"),
            step.emit("tell", "told"),
            step.random(),
        )
        log.append(found)
        return [*found[:4], found[4].payload]

    driver = started(body)
    assert isinstance(driver.one_pass("r1", []), Parked)
    assert {name for name, row in driver.steps().items() if row["status"] == "waiting"} == {"nap", "kid", "w"}
    end_child(driver, "kid", lambda: 4)
    dispatch(store, emit(store, "w", 5))
    ended, _ = passes(driver)
    assert ended == Finished([1, 2, None, 4, 5])


def test_the_first_error_of_a_gather(started: Started) -> None:
    async def body(log: list[Any]) -> str:
        tasks = [asyncio.ensure_future(step.options(retry=ONCE).run(f"{n}", fail, f"{n}", n / 50)) for n in (2, 0, 1)]
        try:
            await asyncio.gather(*tasks, step.sleep("nap", "1h"))
        except ValueError as error:
            log.append(str(error))
        await step.sleep("after", "1h")
        await asyncio.wait(tasks)
        return ",".join(str(task.exception()) for task in tasks)

    ended, logs = passes(started(body))
    assert ended == Finished("2,0,1")
    assert logs[-1] == ["0"]


def test_a_gather_that_collects_errors(started: Started) -> None:
    async def body() -> list[Any]:
        found = await asyncio.gather(
            step.run("good", awaited, 1),
            step.options(retry=ONCE).run("bad", fail, "no"),
            step.sleep("nap", "1h"),
            return_exceptions=True,
        )
        return [str(value) for value in found]

    assert started(body).value() == ["1", "no", "None"]


@since_3_11
def test_a_task_group(started: Started) -> None:
    async def body() -> list[Any]:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(step.run("a", awaited, 1)),
                group.create_task(step.sleep("nap", "1h")),
                group.create_task(step.run("b", slept, 2)),
            ]
        return [task.result() for task in tasks]

    assert started(body).value() == [1, None, 2]


@since_3_11
def test_a_task_group_cancels_the_others(started: Started) -> None:
    calls: list[str] = []

    async def slow() -> None:
        calls.append("slow")
        await asyncio.sleep(60)

    async def body(log: list[Any]) -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(step.run("slow", slow))
                group.create_task(step.call("kid", "child"))
                group.create_task(step.wait_for_event("w"))
                group.create_task(step.options(retry=ONCE).run("bad", fail, "no", 0.02))
        except Exception as group_of:
            log.extend(str(error) for error in group_of.exceptions)
        await step.sleep("nap", "1h")
        return "went on"

    driver = started(body)
    ended, logs = passes(driver)
    assert ended == Finished("went on")
    assert (calls, logs[-1]) == (["slow"], ["no"])
    assert {name: row["status"] for name, row in driver.steps().items()}["slow"] == "cancelled"
    check_nothing_dangles(driver)


@since_3_11
def test_a_task_group_parks_in_its_exit_and_fails_later(store: Store, started: Started) -> None:
    async def body(log: list[Any]) -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(step.sleep("nap", "2h"))
                group.create_task(step.call("kid", "child"))
        except Exception as group_of:
            log.extend(str(error) for error in group_of.exceptions)
        return "went on"

    driver = started(body)
    assert isinstance(driver.one_pass("r1", []), Parked)

    def lost() -> None:
        raise ValueError("lost")

    end_child(driver, "kid", lost)
    log: list[Any] = []
    assert driver.one_pass("r1", log) == Finished("went on")
    assert log == ["lost"]


# -- wait, wait_for, as_completed, timeout, shield


def test_the_first_of_several_wins(store: Store, started: Started) -> None:
    async def body(log: list[Any]) -> str:
        waits = {
            asyncio.ensure_future(step.wait_for_event("approved")): "approved",
            asyncio.ensure_future(step.sleep("nudge", "1d")): "nudge",
        }
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        log.append([waits[task] for task in done])
        await step.sleep("nap", "1h")
        return waits[done.pop()]

    driver = started(body)
    assert isinstance(driver.one_pass("r1", []), Parked)
    dispatch(store, emit(store, "approved"))
    ended, logs = passes(driver)
    assert ended == Finished("approved")
    assert logs[-1] == [["approved"]]
    assert rows(store, "wait") == []
    assert driver.steps()["nudge"]["status"] == "cancelled"


def test_waiting_for_all_with_a_timeout_of_the_wait(started: Started) -> None:
    async def body(log: list[Any]) -> str:
        tasks = [asyncio.ensure_future(step.sleep("nap", "2h")), asyncio.ensure_future(step.run("quick", awaited, 1))]
        done, pending = await asyncio.wait(tasks, timeout=3600)
        log.append((len(done), len(pending)))
        await asyncio.gather(*pending)
        return "done"

    driver = started(body)
    assert isinstance(driver.one_pass("r1", []), Parked)
    later(driver, 3700)
    log: list[Any] = []
    assert isinstance(driver.one_pass("r1", log), Parked)
    assert log == [(1, 1)]
    later(driver, 3700)
    assert driver.one_pass("r1", log) == Finished("done")
    assert log == [(1, 1)] * 2


def test_wait_for(started: Started) -> None:
    async def body(log: list[Any]) -> list[Any]:
        found: list[Any] = [await asyncio.wait_for(step.run("quick", awaited, 1), 60)]
        verbs: dict[str, Any] = {"slow": step.run("slow", awaited, 2, 60), "event": step.wait_for_event("w")}
        for name, verb in verbs.items():
            try:
                await asyncio.wait_for(verb, 0.05)
            except asyncio.TimeoutError:
                log.append(name)
        await step.sleep("nap", "1h")
        return found

    driver = started(body)
    ended, logs = passes(driver)
    assert ended == Finished([1])
    assert logs[-1] == ["slow", "event"]
    check_nothing_dangles(driver)


def test_as_they_are_completed(started: Started) -> None:
    async def body(log: list[Any]) -> list[Any]:
        verbs = [step.run(f"{n}", awaited, n, n / 50) for n in (3, 0, 2, 1)]
        everything: list[Any] = [*verbs, step.sleep("nap", "1h")]
        for future in asyncio.as_completed(everything):
            log.append(await future)  # noqa: PERF401
        await step.sleep("after", "1h")
        return log

    ended, _ = passes(started(body))
    assert ended == Finished([0, 1, 2, 3, None])


@since_3_11
def test_a_timeout_around_a_local_step(started: Started) -> None:
    cancelled: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append("slow")
            raise

    async def body(log: list[Any]) -> str:
        try:
            async with asyncio.timeout(0.05):
                await step.run("slow", slow)
        except TimeoutError:
            log.append("too slow")
        await step.sleep("nap", "1h")
        return "went on"

    ended, logs = passes(started(body))
    assert ended == Finished("went on")
    assert logs == [["too slow"]] * 2
    assert cancelled == ["slow"]


@since_3_11
@pytest.mark.parametrize("comes", [True, False])
def test_a_timeout_around_an_event_that_is_waited_for_for_long(store: Store, started: Started, comes: bool) -> None:
    async def body(log: list[Any]) -> str:
        try:
            async with asyncio.timeout(3600):
                event = await step.wait_for_event("w")
                log.append(event and event.payload)
        except TimeoutError:
            log.append("timeout")
        await step.sleep("nap", "1h")
        return "went on"

    driver = started(body)
    assert driver.one_pass("r1", []) == Parked("the event 'w'")
    if comes:
        later(driver, 1800)
        dispatch(store, emit(store, "w", 5))
    else:
        later(driver, 3601)
    ended, logs = passes(driver)
    assert ended == Finished("went on")
    assert logs[-1] == [5 if comes else "timeout"]
    assert rows(store, "wait") == []


@since_3_11
def test_a_timeout_around_several_steps(started: Started) -> None:
    async def body(log: list[Any]) -> str:
        try:
            async with asyncio.timeout(5400):
                for number in range(3):
                    await step.run(f"work-{number}", awaited, number)
                    await step.sleep(f"nap-{number}", "1h")
                    log.append(number)
        except TimeoutError:
            log.append("timeout")
        await step.sleep("nap", "1h")
        return "went on"

    driver = started(body)
    log: list[Any] = []
    for expected in ([], [0], [0, "timeout"], [0, "timeout"]):
        log = []
        ended = driver.one_pass("r1", log)
        assert log == expected
        later(driver, 3601)
    assert ended == Finished("went on")
    assert driver.steps()["nap-1"]["status"] == "cancelled"


def test_a_timeout_around_steps_that_leave_the_loop_no_rest(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is always something to hand over, so that the timeout can't wait until there is not."""
    monkeypatch.setattr("celery_durable.engine.loop._AT_THE_LATEST", 0.05)

    async def at_once(value: Any) -> Any:
        return value

    async def body(log: list[Any]) -> str:
        async def without_end(name: str) -> None:
            number = 0
            while True:
                log.append(await step.run(f"{name}-{number}", at_once, number))
                number += 1

        await step.run("begin", awaited, None)  # the loop rests, and from here on time passes
        try:
            await asyncio.wait_for(asyncio.gather(*[without_end(name) for name in "abc"]), 0.01)
        except asyncio.TimeoutError:
            log.append("timeout")
        log.append(await step.run("behind", awaited, "behind"))
        await step.sleep("nap", "1h")
        return "done"

    ended, logs = passes(started(body))
    assert ended == Finished("done")
    assert logs[0][-2:] == ["timeout", "behind"]
    assert logs[1] == logs[0]


@since_3_11
def test_timeouts_in_timeouts_and_rescheduled_ones(started: Started) -> None:
    async def body(log: list[Any]) -> str:
        try:
            async with asyncio.timeout(7200):
                try:
                    async with asyncio.timeout(3600) as inner:
                        await step.sleep("first", "50m")
                        inner.reschedule(asyncio.get_running_loop().time() + 3000)
                        await step.sleep("second", "1h")
                except TimeoutError:
                    log.append("inner")
                await step.sleep("third", "1h")
        except TimeoutError:
            log.append("outer")
        return "went on"

    driver = started(body)
    log: list[Any] = []
    for expected in ([], [], ["inner"], ["inner", "outer"]):
        log = []
        ended = driver.one_pass("r1", log)
        assert log == expected
        later(driver, 3001)
    assert ended == Finished("went on")


def test_a_shielded_step(started: Started) -> None:
    async def body(log: list[Any]) -> Any:
        task = asyncio.ensure_future(step.run("slow", awaited, 7, 0.1))
        try:
            await asyncio.wait_for(asyncio.shield(task), 0.02)
        except asyncio.TimeoutError:
            log.append("timeout")
        value = await task
        await step.sleep("nap", "1h")
        return value

    ended, logs = passes(started(body))
    assert ended == Finished(7)
    assert logs == [["timeout"]] * 2


def test_a_shielded_sleep_is_parked_for(started: Started) -> None:
    async def body() -> str:
        await asyncio.shield(step.sleep("nap", "1h"))
        return "slept"

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    driver.let_time_pass()
    assert driver.value() == "slept"
