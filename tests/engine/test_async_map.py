"""``step.map`` of ``async def`` tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from celery_durable.aio import step
from celery_durable.engine.executor import Failed

from .blocks import ONCE
from .driving import Driver
from .test_async import awaited, order, slept

Started = Callable[..., Driver]


@pytest.mark.parametrize("limit", [None, 1, 3])
@pytest.mark.parametrize("fn", [slept, awaited])
def test_a_map(started: Started, fn: Callable[..., Any], limit: int | None) -> None:
    at_work, most, lock = [0], [0], threading.Lock()

    def begin() -> None:
        with lock:
            at_work[0] += 1
            most[0] = max(most[0], at_work[0])

    async def on_loop(number: int) -> int:
        begin()
        value = await awaited(number * number, 0.01)
        at_work[0] -= 1
        return int(value)

    def on_thread(number: int) -> int:
        begin()
        time.sleep(0.01)
        with lock:
            at_work[0] -= 1
        return number * number

    async def body() -> list[int]:
        found = await step.map("square", on_loop if fn is awaited else on_thread, range(6), limit=limit)
        await step.sleep("nap", "1h")
        return found

    driver = started(body)
    assert driver.value() == [0, 1, 4, 9, 16, 25]
    assert sorted(driver.steps())[1:] == [f"square[{number}]" for number in range(6)]
    assert most[0] <= (limit or 6)


def test_a_map_of_nothing(started: Started) -> None:
    async def body() -> list[Any]:
        return await step.map("m", order, [])

    assert started(body).value() == []


def test_one_that_fails_cancels_the_rest_of_a_map(started: Started) -> None:
    ended: list[int] = []

    async def one(number: int) -> None:
        if number == 0:
            raise ValueError("no")
        await asyncio.sleep(60)
        ended.append(number)

    async def body() -> str:
        try:
            await step.options(retry=ONCE).map("m", one, range(4), limit=2)
        except ValueError as error:
            await step.sleep("nap", "1h")
            return str(error)
        return ""

    driver = started(body)
    assert driver.value() == "no"
    assert ended == []
    assert {name: row["status"] for name, row in driver.steps().items()}["m[1]"] == "cancelled"
    assert "m[3]" not in driver.steps()


@pytest.mark.parametrize("wrong", [0, -1, True, "2"])
def test_a_limit_is_a_number(started: Started, wrong: Any) -> None:
    async def body() -> None:
        await step.map("m", order, [], limit=wrong)

    ended = started(body).one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, ValueError)
