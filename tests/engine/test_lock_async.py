"""``async with step.lock``: tasks of an event loop that wait for a lock, hold it, and are cancelled."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from celery_durable import aio
from celery_durable.engine.executor import Cancelled, Finished, Parked
from celery_durable.store.store import Store

from .controls import Fed, cancel, starting
from .driving import Driver
from .test_async import later
from .test_events import dispatch, emit
from .test_lock import leave, line, turns


async def gives_up() -> str:
    """Waits for the lock, for half an hour."""

    async def enters() -> None:
        async with aio.step.lock("mine", "account-7"):
            await aio.step.run("not reached", int)

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(enters(), 1800)
        return "entered"
    await aio.step.sleep("nap", "1h")
    return "given up"


def test_whoever_stops_waiting_by_a_timeout_of_asyncio_leaves_the_line(store: Store) -> None:
    (first,), _ = line(starting(store, "def"), "r1")
    impatient = Fed(store, gives_up)
    impatient.start("impatient")
    impatient.parks("impatient")
    assert len(turns(store)) == 2
    later(impatient, 3600, "impatient")
    impatient.parks("impatient")
    assert turns(store) == [("r1", "account-7", "has it")]
    assert leave(first, "r1") == []
    impatient.let_time_pass("impatient")
    assert impatient.value("impatient") == "given up"


def test_whoever_has_stopped_waiting_when_its_turn_comes_gives_the_lock_back(store: Store) -> None:
    """The timeout of asyncio was over before the lock was given to it: the body never enters the block."""

    (first,), _ = line(starting(store, "def"), "r1")
    impatient = Fed(store, gives_up)
    impatient.start("impatient")
    impatient.parks("impatient")
    later(impatient, 3600, "impatient")
    assert leave(first, "r1") == ["impatient"]
    impatient.parks("impatient")
    assert "not reached" not in impatient.steps("impatient")
    assert turns(store) == []


def test_waiting_for_a_lock_beside_something_else(store: Store) -> None:
    """What else comes first is heard of, and the run keeps its place."""
    seen: list[str] = []

    async def guarded() -> str:
        async with aio.step.lock("mine", "account-7"):
            return await aio.step.run("guarded", lambda: "guarded")

    async def beside() -> str:
        await aio.step.wait_for_event("news")
        seen.append(await aio.step.run("note", lambda: "noted"))
        await aio.step.sleep("nap", "1h")
        return "rested"

    async def body() -> tuple[str, str]:
        return await asyncio.gather(guarded(), beside())

    (first,), _ = line(starting(store, "def"), "r1")
    driver = Driver(store, body)
    driver.start("r2")
    driver.one_pass("r2")
    assert dispatch(store, emit(store, "news")) == ["r2"]
    ended = driver.one_pass("r2")
    assert isinstance(ended, Parked), ended
    assert ended.status == "suspended"
    assert seen == ["noted"]
    driver.let_time_pass("r2")
    ended = driver.one_pass("r2")
    assert ended == Parked("the lock 'account-7'"), ended
    assert turns(store) == [("r1", "account-7", "has it"), ("r2", "account-7", "waits")]
    assert leave(first, "r1") == ["r2"]
    assert driver.value("r2") == ["guarded", "rested"]
    assert turns(store) == []


def test_a_task_that_is_cancelled_in_the_block_gives_the_lock_back(store: Store) -> None:
    async def inside() -> None:
        async with aio.step.lock("mine", "account-7"):
            await aio.step.sleep("long", "9h")

    async def body() -> str:
        task = asyncio.ensure_future(inside())
        await aio.step.sleep("short", "1h")
        task.cancel()
        await asyncio.wait({task})
        await aio.step.sleep("last", "1h")
        return "done"

    driver = Fed(store, body)
    driver.start()
    driver.parks()
    assert turns(store) == [("r1", "account-7", "has it")]
    later(driver, 3700)
    driver.parks()
    assert turns(store) == []
    driver.let_time_pass()
    assert driver.value() == "done"
    assert driver.steps()["mine/release"]["status"] == "completed"


def test_a_task_that_is_left_behind_in_the_block_gives_the_lock_back(store: Store) -> None:
    async def inside() -> None:
        async with aio.step.lock("mine", "account-7"):
            await aio.step.sleep("long", "9h")

    async def body() -> str:
        left = asyncio.ensure_future(inside())
        await aio.step.sleep("short", "1h")
        return "done early" if not left.done() else "late"

    driver = Fed(store, body)
    driver.start()
    driver.parks()
    later(driver, 3700)
    assert driver.one_pass() == Finished("done early")
    assert turns(store) == []
    assert driver.dispatcher.followed.freed == ("account-7",)


def test_tasks_that_are_cancelled_with_the_run_give_their_locks_back_before_anything_is_undone(store: Store) -> None:
    seen: list[Any] = []

    async def inside(name: str) -> None:
        async with aio.step.lock(f"lock {name}", name):
            await aio.step.wait_for_event(name)

    async def body() -> None:
        await aio.step.on_rollback("undo", lambda: seen.append(turns(store)))
        await asyncio.gather(inside("a"), inside("b"))

    driver = Fed(store, body)
    driver.start()
    driver.parks()
    assert len(turns(store)) == 2
    cancel(driver)
    assert isinstance(driver.one_pass(), Cancelled)
    assert seen == [[]]
    assert turns(store) == []


def test_two_tasks_of_one_run_are_not_in_the_block_at_once(store: Store) -> None:
    log: list[str] = []

    async def inside(name: str) -> None:
        async with aio.step.lock(f"lock {name}", "account-7"):
            await aio.step.run(f"enter {name}", log.append, f"{name} enters")
            await aio.step.sleep(f"nap {name}", "1h")
            await aio.step.run(f"leave {name}", log.append, f"{name} leaves")

    async def body() -> str:
        await asyncio.gather(inside("a"), inside("b"))
        return "done"

    driver = Fed(store, body)
    driver.start()
    for _ in range(8):
        ended = driver.one_pass()
        if isinstance(ended, Finished):
            break
        driver.let_in()
        driver.let_time_pass()
    assert ended == Finished("done")
    assert log == [f"{name} {what}" for name in ("a", "b") for what in ("enters", "leaves")]
    assert turns(store) == []
