"""When a run with an event loop is parked, and what the body sees of it: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any

import pytest

from celery_durable import RunCancelled
from celery_durable.aio import step
from celery_durable.engine.executor import Cancelled, Failed, Finished, Parked
from tests.waiting import wait_until

from .driving import Driver
from .test_async import awaited, later, passes, slept

Started = Callable[..., Driver]


def parks_soon(driver: Driver) -> bool:
    """Whether a pass parks the run; where it does not, it goes on in its thread."""
    ended: list[Any] = []
    threading.Thread(target=lambda: ended.append(driver.one_pass()), daemon=True).start()
    with contextlib.suppress(pytest.fail.Exception):
        wait_until(lambda: ended, 3)
    return bool(ended) and isinstance(ended[0], Parked)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda gathered: asyncio.wait_for(gathered, 10_000),
        lambda gathered: asyncio.shield(gathered),
        lambda gathered: asyncio.wait_for(asyncio.shield(gathered), 10_000),
        lambda gathered: asyncio.wait({gathered}, return_when=asyncio.FIRST_COMPLETED),
        lambda gathered: asyncio.gather(gathered),
    ],
    ids=["wait_for", "shield", "wait_for shield", "wait", "gather"],
)
def test_a_gather_in_something_else_parks(started: Started, wrapped: Callable[[Any], Any]) -> None:
    async def body() -> str:
        await wrapped(asyncio.gather(step.sleep("a", "1h"), step.sleep("b", "1h")))
        return "slept"

    driver = started(body)
    assert parks_soon(driver), "it is not parked, and holds its worker for the hour"
    driver.let_time_pass()
    assert driver.value() == "slept"


# What goes on in the body while the run is being parked is not what would go on had it an answer.


@pytest.mark.parametrize(
    "together",
    [
        lambda tasks: asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED),
        lambda tasks: asyncio.wait(tasks),
        lambda tasks: asyncio.gather(*tasks, return_exceptions=True),
    ],
    ids=["first completed", "all completed", "gather"],
)
@pytest.mark.parametrize("within", ["body", "gather", "wait", "background"])
def test_the_body_does_not_go_on_without_an_answer(
    started: Started, together: Callable[[Any], Any], within: str
) -> None:
    reached: list[str] = []

    async def branch() -> str:
        tasks = [asyncio.ensure_future(step.sleep("a", "1h")), asyncio.ensure_future(step.wait_for_event("w"))]
        await together(tasks)
        reached.append("as if one were done")
        return "done"

    async def body() -> Any:
        task = asyncio.ensure_future(branch())
        if within == "background":
            await step.sleep("c", "1h")
        if within in ("wait", "background"):
            await asyncio.wait({task})
        return await (asyncio.gather(task, step.sleep("d", "1h")) if within == "gather" else task)

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    assert reached == []


# -- Between tasks


def test_a_queue_between_tasks(started: Started) -> None:
    async def produce(queue: asyncio.Queue[Any]) -> None:
        for number in range(3):
            await queue.put(await step.run(f"make-{number}", awaited, number))
            await step.sleep(f"nap-{number}", "1h")
        await queue.put(None)

    async def consume(queue: asyncio.Queue[Any], log: list[Any]) -> list[Any]:
        found = []
        while (item := await queue.get()) is not None:
            found.append(await step.run(f"eat-{item}", slept, item * 10))
            log.append(item)
        return found

    async def body(log: list[Any]) -> list[Any]:
        queue: asyncio.Queue[Any] = asyncio.Queue(1)
        _, found = await asyncio.gather(produce(queue), consume(queue, log))
        return found

    driver = started(body)
    ended, logs = passes(driver)
    assert ended == Finished([0, 10, 20])
    assert [len(log) for log in logs] == [1, 2, 3, 3]


def test_a_lock_between_tasks(started: Started) -> None:
    async def one(lock: asyncio.Lock, name: str, log: list[Any]) -> None:
        async with lock:
            log.append(f"{name} in")
            await step.run(f"work {name}", awaited, name)
            await step.sleep(f"nap {name}", "1h")
            log.append(f"{name} out")

    async def body(log: list[Any]) -> str:
        lock = asyncio.Lock()
        await asyncio.gather(*[one(lock, name, log) for name in "abc"])
        return "done"

    driver = started(body)
    ended, logs = passes(driver)
    assert ended == Finished("done")
    assert logs[-1] == ["a in", "a out", "b in", "b out", "c in", "c out"]
    assert len(logs) == 4


def test_an_event_a_condition_and_a_semaphore_between_tasks(started: Started) -> None:
    async def body(log: list[Any]) -> str:
        ready, room, change = asyncio.Event(), asyncio.Semaphore(1), asyncio.Condition()

        async def first() -> None:
            async with room:
                await step.sleep("nap", "1h")
            ready.set()

        async def second() -> None:
            async with room:
                log.append("room")
            await ready.wait()
            async with change:
                log.append("ready")
                change.notify_all()

        async def third() -> None:
            async with change:
                await change.wait()
            log.append("changed")

        await asyncio.gather(first(), second(), third())
        return "done"

    ended, logs = passes(started(body))
    assert ended == Finished("done")
    assert logs == [[], ["room", "ready", "changed"]]


def test_a_plain_future_between_tasks(started: Started) -> None:
    """Nobody can tell who is to set it, so the run keeps its worker."""

    async def body() -> int:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def set_it() -> None:
            await step.sleep("nap", 0.05)
            future.set_result(5)

        task = asyncio.ensure_future(set_it())
        value = await future
        await task
        return value

    assert started(body).one_pass() == Finished(5)


def test_a_task_in_the_background(started: Started) -> None:
    async def background() -> int:
        await step.sleep("long nap", "1h")
        return int(await step.run("late", awaited, 1))

    async def body(log: list[Any]) -> list[Any]:
        task = asyncio.create_task(background())
        for number in range(3):
            value = await step.run(f"step-{number}", awaited, number)
            log.append(value)
        return [*log, await task]

    ended, logs = passes(started(body))
    assert ended == Finished([0, 1, 2, 1])
    assert len(logs) == 2


# -- What is not durable


def test_what_is_not_a_step_is_let_finish(started: Started) -> None:
    async def branch(number: int) -> int:
        await asyncio.sleep(0.03 * (3 - number))
        value = await step.run(f"s{number}", awaited, number)
        await step.sleep(f"nap{number}", "1h")
        return int(value)

    async def body() -> list[int]:
        return await asyncio.gather(*[branch(number) for number in range(3)])

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    assert sum(row["status"] == "waiting" for row in driver.steps().values()) == 3
    driver.let_time_pass()
    assert driver.one_pass() == Finished([0, 1, 2])


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.02)
    writer.write(await reader.readline())
    writer.close()


async def asked(port: int, line: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(line)
    answer = await reader.readline()
    writer.close()
    return answer


def test_a_real_socket_before_a_step(started: Started) -> None:
    async def branch(port: int) -> Any:
        answer = await asked(port, b"hello\n")
        return await step.run("greet", awaited, answer.decode().strip())

    async def body() -> list[Any]:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        try:
            return list(await asyncio.gather(branch(server.sockets[0].getsockname()[1]), step.sleep("nap", "1h")))
        finally:
            server.close()

    driver = started(body)
    parked = driver.one_pass()
    assert isinstance(parked, Parked)
    assert driver.steps()["greet"]["status"] == "completed"
    driver.let_time_pass()
    assert driver.one_pass() == Finished(["hello", None])


def test_an_open_connection_that_is_idle_keeps_nobody(started: Started) -> None:
    async def body() -> str:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        writer.write(b"hello\n")
        try:
            await asyncio.gather(step.sleep("nap", "1h"), step.sleep("other nap", "1h"))
        finally:
            writer.close()
            server.close()
        return "slept"

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    driver.let_time_pass()
    assert driver.value() == "slept"


def test_threads_that_are_not_steps(started: Started) -> None:
    async def body() -> list[Any]:
        loop = asyncio.get_running_loop()
        return list(
            await asyncio.gather(
                loop.run_in_executor(None, slept, 1, 0.05),
                asyncio.to_thread(slept, 2, 0.05),
                step.run("s", awaited, 3),
                step.sleep("nap", "1h"),
            )
        )

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    driver.let_time_pass()
    assert driver.one_pass() == Finished([1, 2, 3, None])


def test_a_thread_that_sets_an_event(started: Started) -> None:
    async def body() -> Any:
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        threading.Timer(0.05, lambda: loop.call_soon_threadsafe(ready.set)).start()
        await ready.wait()
        return await step.run("s", awaited, 1)

    assert started(body).one_pass() == Finished(1)


def test_on_timeout_cancel_inside_a_gather(started: Started) -> None:
    reached: list[str] = []

    async def other() -> None:
        try:
            await step.sleep("nap", "2h")
        except RunCancelled:
            reached.append("other")
            raise

    async def body() -> None:
        try:
            await asyncio.gather(step.wait_for_event("w", timeout="1h", on_timeout="cancel"), other())
        finally:
            reached.append("body")
            await step.run("tidy", awaited, 1)

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    reached.clear()
    later(driver, 3601)
    ended = driver.one_pass()
    assert isinstance(ended, Cancelled), ended
    assert "did not come within 1h" in ended.why
    assert "body" in reached
    assert driver.steps()["tidy"]["status"] == "completed"
    assert not isinstance(ended, Failed)
