"""Retries, timeouts and errors of the steps of ``async def`` tasks."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from celery_durable import NonRetryable, NotSerializable, Retry, RetryAfter, StepFailed, StepInterrupted, StepTimeout
from celery_durable.aio import step
from celery_durable.engine.executor import Failed, Finished, Parked

from .blocks import ONCE
from .test_async import Started, awaited, slept
from .test_errors import Died
from .test_race import died

# -- Retries


@pytest.mark.parametrize("is_async", [True, False])
def test_a_step_that_is_tried_again_parks_the_run(started: Started, is_async: bool) -> None:
    attempts: list[int] = []

    def work() -> str:
        attempts.append(step.current().attempt)
        if len(attempts) < 3:
            raise ConnectionError("again")
        return "done"

    async def async_work() -> str:
        return work()

    async def body() -> str:
        return await step.run("work", async_work if is_async else work)

    driver = started(body)
    first = driver.one_pass()
    assert isinstance(first, Parked)
    assert "step 'work'" in first.waiting_on
    assert first.wake_at == driver.steps()["work"]["wake_at"]
    driver.let_time_pass()
    assert isinstance(driver.one_pass(), Parked)
    driver.let_time_pass()
    assert driver.value() == "done"
    assert attempts == [1, 2, 3]


def test_a_retry_without_delay_needs_no_pass(started: Started) -> None:
    attempts: list[int] = []

    async def work() -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise RetryAfter(0)
        return "done"

    async def body() -> str:
        return await step.run("work", work)

    assert started(body).one_pass() == Finished("done")


def test_siblings_go_on_while_one_waits_for_its_next_attempt(started: Started) -> None:
    calls: list[str] = []

    async def flaky() -> str:
        calls.append("flaky")
        if calls.count("flaky") == 1:
            raise ConnectionError("again")
        return "flaky"

    async def chain() -> str:
        for number in range(3):
            value = await step.run(f"chain-{number}", awaited, f"{number}", 0.01)
            calls.append(value)
        return "chain"

    async def body() -> Any:
        return await asyncio.gather(step.run("flaky", flaky), chain())

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    assert calls == ["flaky", "0", "1", "2"]
    driver.let_time_pass()
    assert driver.value() == ["flaky", "chain"]


@pytest.mark.parametrize("is_async", [True, False])
def test_the_error_of_the_last_attempt_has_its_type(started: Started, is_async: bool) -> None:
    def work() -> None:
        raise KeyError("nothing here")

    async def async_work() -> None:
        work()

    seen: list[BaseException] = []

    async def body() -> str:
        try:
            await step.options(retry=Retry(max_attempts=2, delay="1h")).run("work", async_work if is_async else work)
        except KeyError as error:
            seen.append(error)
            await step.sleep("nap", "1h")
            return str(error)
        return ""

    assert started(body).value() == "'nothing here'"
    assert "celery_durable: step 'work' of run r1 failed after 2 attempts" in seen[-1].__notes__


def test_an_error_that_is_not_tried_again(started: Started) -> None:
    async def work() -> None:
        raise NonRetryable("never")

    async def body() -> None:
        await step.run("work", work)

    ended = started(body).one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, NonRetryable)


def test_an_error_that_can_not_be_rebuilt(started: Started) -> None:
    class Odd(Exception):
        pass

    async def work() -> None:
        raise Odd("odd")

    async def body() -> str:
        try:
            await step.options(retry=ONCE).run("work", work)
        except StepFailed as error:
            return str(error)
        return ""

    assert "odd" in started(body).value()


@pytest.mark.parametrize("value", [object(), print])
def test_a_result_that_can_not_be_stored(started: Started, value: Any) -> None:
    async def work() -> Any:
        return value

    async def body() -> None:
        await step.options(retry=ONCE).run("work", work)

    ended = started(body).one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, NotSerializable)


# -- Timeouts of attempts


def test_an_async_step_that_takes_too_long_is_cancelled(started: Started) -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def body() -> str:
        try:
            await step.options(timeout=0.02, retry=ONCE).run("work", work)
        except StepTimeout as error:
            await step.sleep("nap", "1h")
            return str(error)
        return ""

    assert started(body).value().startswith("step 'work' took longer than its timeout of 20ms")
    assert ended == ["cancelled"]


def test_a_step_on_a_thread_that_takes_too_long_is_left_to_itself(started: Started) -> None:
    let_go = threading.Event()

    async def body() -> str:
        try:
            await step.options(timeout=0.02, retry=ONCE).run("work", let_go.wait, 60)
        except StepTimeout:
            return "given up"
        return ""

    assert started(body).value() == "given up"
    let_go.set()


def test_an_attempt_that_takes_too_long_is_tried_again(started: Started) -> None:
    attempts: list[int] = []

    async def work() -> str:
        attempts.append(1)
        return str(await awaited("done", 60 if len(attempts) == 1 else 0))

    async def body() -> str:
        return await step.options(timeout=1.0).run("work", work)

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    driver.let_time_pass()
    assert driver.value() == "done"


def test_a_step_that_ends_in_time(started: Started) -> None:
    async def body() -> Any:
        verbs = step.options(timeout="1m")
        return await asyncio.gather(verbs.run("a", awaited, 1), verbs.run("b", slept, 2))

    assert started(body).value() == [1, 2]


# -- At most once


@pytest.mark.parametrize("is_async", [True, False])
def test_a_worker_that_dies_inside_at_most_once(started: Started, is_async: bool) -> None:
    calls: list[int] = []

    def pay() -> None:
        calls.append(1)
        raise Died

    async def async_pay() -> None:
        pay()

    async def body() -> str:
        try:
            await step.options(at_most_once=True).run("pay", async_pay if is_async else pay)
        except StepInterrupted as error:
            return str(error)
        return "paid"

    driver = started(body)
    with pytest.raises(Died):
        driver.one_pass()
    assert driver.steps()["pay"]["status"] == "started"
    died(driver)
    assert driver.value().startswith("step 'pay' of run r1 runs at most once, and the worker died inside it")
    assert calls == [1]


def test_at_most_once_is_not_tried_again(started: Started) -> None:
    calls: list[int] = []

    async def pay() -> None:
        calls.append(1)
        raise ConnectionError("no answer")

    async def body() -> list[Any]:
        paid = step.options(at_most_once=True).run("pay", pay)
        return list(await asyncio.gather(paid, step.sleep("nap", "1h"), return_exceptions=True))

    driver = started(body)
    ended = driver.finish()
    assert calls == [1]
    assert driver.steps()["pay"]["status"] == "failed"
    assert isinstance(ended, Failed)  # an exception is nothing that a run can return


def test_two_steps_at_once_that_run_at_most_once(started: Started) -> None:
    async def body() -> Any:
        verbs = step.options(at_most_once=True)
        return await asyncio.gather(verbs.run("a", slept, 1, 0.01), verbs.run("b", awaited, 2, 0.01), step.sleep("1h"))

    assert started(body).value() == [1, 2, None]


def test_many_threads_at_once(started: Started) -> None:
    async def body() -> int:
        return sum(await asyncio.gather(*[step.run(f"s{number}", slept, number, 0.05) for number in range(200)]))

    assert started(body).value() == sum(range(200))


def test_many_async_steps_at_once(started: Started) -> None:
    async def body() -> int:
        return sum(await asyncio.gather(*[step.run(f"s{number}", awaited, number, 0.05) for number in range(200)]))

    assert started(body).value() == sum(range(200))
