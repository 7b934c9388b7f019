"""How the body of an ``async def`` task is left: cancelled, mistaken, taken over, or with something left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from celery_durable import DuplicateStep, DurableError, NotInDurableTask
from celery_durable import step as sync_step
from celery_durable.aio import step
from celery_durable.engine.executor import Cancelled, Failed, Finished, Gone, Parked
from celery_durable.store.store import Store

from .driving import Driver
from .test_async import awaited

Started = Callable[..., Driver]

untyped: Any = step
"""The verbs, for uses that a type checker would refuse."""


def failure(driver: Driver) -> BaseException:
    ended = driver.one_pass()
    assert isinstance(ended, Failed), ended
    return ended.error


def test_tasks_that_are_left_behind_are_told_of(started: Started, caplog: pytest.LogCaptureFixture) -> None:
    ended = []

    async def forgotten() -> None:
        try:
            await step.sleep("nap", "1h")
        finally:
            ended.append("cancelled")

    async def body() -> str:
        background.append(asyncio.ensure_future(forgotten()))
        await asyncio.sleep(0.01)
        return "done"

    background: list[Any] = []
    driver = started(body)
    with caplog.at_level(logging.WARNING, "celery_durable"):
        assert driver.one_pass() == Finished("done")
    assert ended == ["cancelled"]
    assert "left tasks behind" in caplog.text
    assert "forgotten" in caplog.text
    assert [row["status"] for row in driver.steps().values() if row["status"] == "waiting"] == []


def test_tasks_that_wait_for_each_other(started: Started) -> None:
    async def body() -> None:
        gate = asyncio.Event()
        await asyncio.gather(gate.wait(), gate.wait())

    error = failure(started(body))
    assert type(error) is DurableError
    assert "can't go on" in str(error)
    assert "body" in str(error)


def test_a_lock_that_a_parked_branch_holds_is_no_deadlock(started: Started) -> None:
    async def body() -> Any:
        lock = asyncio.Lock()

        async def one(name: str) -> str:
            async with lock:
                await step.sleep(name, "1h")
                return name

        return await asyncio.gather(one("a"), one("b"))

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    driver.let_time_pass()
    assert driver.value() == ["a", "b"]


def test_sync_verbs_in_an_async_body(started: Started) -> None:
    async def body() -> None:
        sync_step.run("one", int)

    error = failure(started(body))
    assert isinstance(error, NotInDurableTask)
    assert "celery_durable.aio" in str(error)


def test_async_verbs_in_a_sync_body(started: Started) -> None:
    def body() -> None:
        untyped.run("one", int)

    error = failure(started(body))
    assert isinstance(error, NotInDurableTask)
    assert "import step from celery_durable there" in str(error)


def test_async_verbs_outside_a_run() -> None:
    with pytest.raises(NotInDurableTask, match="base=DurableTask"):
        untyped.sleep("1h")


def test_blocks_have_no_place_in_an_async_body(started: Started) -> None:
    async def body() -> None:
        step.parallel()

    assert "asyncio.gather" in str(failure(started(body)))


def test_a_body_that_is_ended_by_a_cancelled_task(started: Started) -> None:
    async def body() -> None:
        task = asyncio.ensure_future(asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel()
        await task

    assert "CancelledError" in str(failure(started(body)))


def test_clean_up_steps_run_once_when_the_block_is_really_left(started: Started) -> None:
    done: list[str] = []

    async def branch() -> None:
        try:
            await step.sleep("nap", "1h")
        finally:
            await step.run("clean", done.append, "clean")

    async def body() -> None:
        await asyncio.gather(branch(), step.sleep("other", "2h"))

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    assert done == []
    driver.let_time_pass()
    driver.finish()
    assert done == ["clean"]


@pytest.mark.parametrize(
    "wrapped", [asyncio.gather, lambda *verbs: asyncio.wait([asyncio.ensure_future(v) for v in verbs])]
)
def test_a_run_that_is_cancelled(started: Started, store: Store, wrapped: Callable[..., Any]) -> None:
    log: list[str] = []

    async def body() -> None:
        try:
            await wrapped(step.sleep("nap", "1h"), step.wait_for_event("never"))
        except BaseException as error:
            log.append(type(error).__name__)
            raise
        finally:
            await step.run("clean", int)

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    log.clear()
    with store.link() as link:
        assert store.cancel(link, "r1", "because") is not None
    assert driver.one_pass() == Cancelled("because")
    assert log == ["RunCancelled"]
    assert driver.steps()["clean"]["status"] == "completed"
    assert {row["status"] for row in driver.steps().values()} <= {"completed", "cancelled", "failed"}


def test_a_cancelling_that_is_interrupted_goes_on(started: Started, store: Store) -> None:
    log: list[str] = []

    async def body() -> None:
        try:
            await asyncio.gather(step.sleep("nap", "1h"), step.sleep("other", "2h"))
        finally:
            log.append("cleaning")
            await step.sleep("calm", "1h")
            await step.run("clean", int)

    driver = started(body)
    driver.one_pass()
    with store.link() as link:
        store.cancel(link, "r1", "because")
    log.clear()
    assert isinstance(driver.one_pass(), Parked)
    driver.let_time_pass()
    assert driver.one_pass() == Cancelled("because")
    assert log == ["cleaning", "cleaning"] or log == ["cleaning"] * 3
    assert driver.steps()["clean"]["status"] == "completed"


def test_code_that_does_not_fit_in_a_branch_pauses_the_run(started: Started) -> None:
    kinds = iter([lambda: step.sleep("it", "1h"), lambda: step.run("it", int)])

    async def body() -> None:
        await asyncio.gather(step.sleep("other", "1h"), next(kinds)())

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    driver.let_time_pass()
    ended = driver.one_pass()
    assert isinstance(ended, Parked)
    assert ended.status == "paused"
    assert "HistoryMismatch" in driver.run()["error"]


def test_one_id_twice(started: Started) -> None:
    async def body() -> None:
        first = asyncio.ensure_future(step.run("it", awaited, 1))
        await asyncio.gather(first, step.run("it", awaited, 2))

    assert isinstance(failure(started(body)), DuplicateStep)


def test_a_worker_that_is_shutting_down_ends_what_it_has_begun(started: Started) -> None:
    async def body() -> Any:
        async def two(number: int) -> int:
            await step.run(f"first-{number}", awaited, number)
            driver.dispatcher.is_stopping = True
            return await step.run(f"second-{number}", awaited, number)

        return await asyncio.gather(two(1), two(2))

    driver = started(body)
    ended = driver.one_pass()
    assert isinstance(ended, Parked)
    assert "shutting down" in ended.waiting_on
    assert sorted(driver.steps()) == ["first-1", "first-2"]
    driver.dispatcher.is_stopping = False
    assert driver.body is body
    driver.let_time_pass()
    again = driver.one_pass()
    assert isinstance(again, Parked)  # it says so once more, after its first steps


def test_a_worker_that_has_lost_the_run_stops(started: Started, store: Store) -> None:
    async def body() -> None:
        await asyncio.gather(step.run("a", take_over), step.run("b", awaited, 1), step.sleep("nap", "1h"))
        raise AssertionError("the body went on")

    def take_over() -> None:
        with store.link() as link:
            link.run(lambda connection: connection.execute(store.tables.run.update().values(token=7)))

    driver = started(body)
    assert isinstance(driver.one_pass(), Gone)
    assert driver.run()["token"] == 7


def test_several_that_end_together_are_one_write(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    plain = Store.change

    def change(self: Store, link: Any, fence: Any, changes: Any, *rest: Any) -> Any:
        written.append(len(changes.steps))
        return plain(self, link, fence, changes, *rest)

    monkeypatch.setattr(Store, "change", change)

    async def body() -> list[int]:
        gate = asyncio.Event()

        async def gated(number: int) -> int:
            await gate.wait()
            return number

        tasks = [asyncio.ensure_future(step.run(f"s{number}", gated, number)) for number in range(10)]
        await asyncio.sleep(0.01)
        gate.set()
        return await asyncio.gather(*tasks)

    assert started(body).value() == list(range(10))
    assert written == [10]


def test_a_run_is_parked_until_the_earliest_of_all(started: Started) -> None:
    async def body() -> None:
        with_timeout = asyncio.wait_for(step.wait_for_event("never"), 1800)
        await asyncio.gather(step.sleep("nap", "1h"), with_timeout, step.sleep("long", "2h"))

    driver = started(body)
    ended = driver.one_pass()
    assert isinstance(ended, Parked)
    assert ended.wake_at is not None
    run = driver.run()
    assert abs(ended.wake_at - run["started_at"] - 1_800_000_000) < 60_000_000
