"""The verbs of ``async def`` tasks, awaited: what goes in, what comes out, retries, timeouts, errors."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import text, update

from celery_durable import EventTimeout, StepTimeout
from celery_durable.aio import step
from celery_durable.engine.executor import Ended, Finished, Parked
from celery_durable.store.store import Store

from .blocks import ONCE, end_child
from .driving import Driver
from .test_events import dispatch, emit, rows

Started = Callable[..., Driver]


def later(driver: Driver, seconds: float, run_id: str = "r1") -> None:
    """All that has happened in the run happened that much earlier."""
    tables, length = driver.store.tables, round(seconds * 1_000_000)
    with driver.store.engine.begin() as connection:
        for table, of_run in ((tables.run, tables.run.c.id), (tables.step, tables.step.c.run_id)):
            times = ("created_at", "started_at", "finished_at", "wake_at", "due_at")
            columns = [table.c[name] for name in times if name in table.c]
            connection.execute(
                update(table).where(of_run == run_id).values({column: column - length for column in columns})
            )


def passes(driver: Driver, most: int = 300) -> tuple[Ended, list[list[Any]]]:
    """All passes of a run whose body is given a list to log to, and their logs: each is the last one, gone on with."""
    logs: list[list[Any]] = []
    for _ in range(most):
        log: list[Any] = []
        ended = driver.one_pass("r1", log)
        if logs:
            assert log[: len(logs[-1])] == logs[-1]
        logs.append(log)
        if not (isinstance(ended, Parked) and ended.status == "suspended"):
            return ended, logs
        driver.let_time_pass()
    raise AssertionError(f"the run did not end in {most} passes")


async def awaited(value: Any, seconds: float = 0.001) -> Any:
    """An async step."""
    await asyncio.sleep(seconds)
    return value


def slept(value: Any, seconds: float = 0.001) -> Any:
    """The same on a thread."""
    time.sleep(seconds)
    return value


@dataclass
class Order:
    number: int
    price: Decimal


class Answer(BaseModel):
    approved: bool


def order(number: int, price: str = "1.50") -> Order:
    return Order(number, Decimal(price))


async def async_order(number: int) -> Order:
    await asyncio.sleep(0)
    return order(number)


# -- step.run


@pytest.mark.parametrize("fn", [slept, awaited])
def test_a_step_is_run_once(started: Started, fn: Callable[..., Any]) -> None:
    calls: list[int] = []

    async def call(number: int) -> int:
        calls.append(number)
        return await awaited(number) if fn is awaited else slept(number)

    async def body() -> list[int]:
        first = await step.run("first", call, 1)
        await step.sleep("nap", "1h")
        return [first, await step.run("second", call, number=2)]

    assert started(body).value() == [1, 2]
    assert calls == [1, 2]


def test_results_have_the_types_of_the_annotations(started: Started) -> None:
    seen: list[Any] = []

    async def body() -> None:
        seen.append(await step.run("def", order, 1))
        seen.append(await step.run("async def", async_order, 2))
        seen.append(await step.options(returns=Answer).run("returns", awaited, {"approved": True}))
        await step.sleep("1h")

    driver = started(body)
    driver.finish()
    once = [Order(1, Decimal("1.50")), Order(2, Decimal("1.50")), Answer(approved=True)]
    assert seen == once * 2


def test_a_def_function_has_a_thread_and_an_async_one_the_loop(started: Started) -> None:
    threads: list[threading.Thread] = []

    def plain() -> None:
        threads.append(threading.current_thread())

    async def on_loop() -> None:
        plain()

    async def body() -> None:
        plain()
        await step.run("def", plain)
        await step.run("async def", on_loop)

    started(body).value()
    body_s, of_def, of_async = threads
    assert of_def is not body_s
    assert of_async is body_s


def test_what_a_step_does_to_its_arguments_is_not_seen(started: Started) -> None:
    async def change(items: list[int]) -> int:
        items.append(2)
        return len(items)

    async def body() -> Any:
        items = [1]
        return [await step.run("change", change, items), items]

    assert started(body).value() == [2, [1]]


def test_a_verb_asks_when_it_is_called_and_works_when_it_is_awaited(started: Started) -> None:
    calls: list[str] = []

    async def body() -> list[str]:
        second = step.run("second", calls.append, "second")
        first = step.run("first", calls.append, "first")
        await first
        await second
        return calls

    driver = started(body)
    assert driver.value() == ["first", "second"]
    assert list(driver.steps()) == ["second", "first"]


# -- The other verbs


def test_a_transaction(store: Store, started: Started) -> None:
    def write(session: Any, name: str) -> int:
        session.execute(text("create table if not exists names (name text)"))
        session.execute(text("insert into names values (:name)"), {"name": name})
        return len(name)

    async def body() -> int:
        length = await step.transaction("write", write, "Ada")
        await step.sleep("nap", "1h")
        return length

    assert started(body).value() == 3
    with store.engine.connect() as connection:
        assert list(connection.execute(text("select name from names"))) == [("Ada",)]


def test_transactions_beside_other_steps(started: Started) -> None:
    def write(session: Any) -> int:
        session.execute(text("create table if not exists names (name text)"))
        time.sleep(0.05)
        return 1

    async def body() -> list[int]:
        return await asyncio.gather(
            step.transaction("one", write),
            step.run("beside", awaited, 2),
            step.transaction("other", write),
            step.run("beside too", slept, 3),
        )

    assert started(body).value() == [1, 2, 1, 3]


def test_a_transaction_that_fails_leaves_nothing(store: Store, started: Started) -> None:
    with store.engine.begin() as connection:
        connection.execute(text("create table names (name text)"))

    def write(session: Any) -> None:
        session.execute(text("insert into names values ('Ada')"))
        raise ValueError("no")

    async def body() -> str:
        try:
            await step.options(retry=ONCE).transaction("write", write)
        except ValueError as error:
            return str(error)
        return ""

    assert started(body).value() == "no"
    with store.engine.connect() as connection:
        assert list(connection.execute(text("select name from names"))) == []


def test_a_call(started: Started) -> None:
    async def body() -> Any:
        return await step.call("kid", ("child", 1))

    driver = started(body)
    parked = driver.one_pass()
    assert parked == Parked("child, called by step 'kid'")
    end_child(driver, "kid", lambda: 7)
    assert driver.one_pass() == Finished(7)


def test_a_call_of_an_async_child_that_fails(started: Started) -> None:
    async def child() -> None:
        await step.options(retry=ONCE).run("look", int, "x")

    async def body() -> str:
        try:
            await step.call("kid", "child")
        except Exception as error:
            return type(error).__name__
        return ""

    driver = started(body)
    driver.one_pass()
    end_child(driver, "kid", child)
    assert driver.value() == "ValueError"


def test_a_call_that_takes_too_long(started: Started) -> None:
    async def body() -> str:
        try:
            await step.options(timeout="1h").call("kid", "child")
        except StepTimeout:
            return "given up"
        return ""

    driver = started(body)
    assert driver.value() == "given up"
    assert [run.status for run in rows(driver.store, "run") if run.parent_id] == ["cancelled"]


def test_sleeping(started: Started) -> None:
    async def body() -> list[Any]:
        untyped: Any = step
        asleep = [await untyped.sleep("nap", "1h"), await untyped.sleep(timedelta(hours=1)), await untyped.sleep(0)]
        asleep.append(await untyped.sleep_until("past", 0))
        asleep.append(await untyped.sleep_until(datetime.now(timezone.utc) + timedelta(days=1)))
        return asleep

    driver = started(body)
    assert driver.value() == [None] * 5
    assert list(driver.steps()) == ["nap", "sleep", "sleep#2", "past", "sleep_until"]


def test_a_wait_for_an_event(store: Store, started: Started) -> None:
    async def body() -> list[Any]:
        event = await step.wait_for_event("approval", "order.approved", key="o1", form=Answer)
        assert event is not None
        return [event.name, event.key, event.payload.approved]

    driver = started(body)
    assert driver.one_pass() == Parked("the event 'order.approved' with the key 'o1'")
    assert dispatch(store, emit(store, "order.approved", {"approved": True}, key="o1")) == ["r1"]
    assert driver.one_pass() == Finished(["order.approved", "o1", True])


def test_an_event_that_was_there_before(store: Store, started: Started) -> None:
    async def body() -> Any:
        event = await step.wait_for_event("w")
        return event and event.payload

    driver = started(body)
    emit(store, "w", 5)
    assert driver.one_pass() == Finished(5)


def test_an_event_that_does_not_come(started: Started) -> None:
    async def body() -> list[Any]:
        found: list[Any] = [await step.wait_for_event("w", timeout="1h"), await step.wait_for_event("v", timeout=0)]
        try:
            await step.wait_for_event("u", timeout="1h", on_timeout="fail")
        except EventTimeout:
            found.append("too late")
        return found

    assert started(body).value() == [None, None, "too late"]


def test_emitting(store: Store, started: Started) -> None:
    async def body() -> str:
        event_id = await step.emit("tell", "order.shipped", {"n": 1}, key="o1")
        await step.sleep("nap", "1h")
        return event_id

    driver = started(body)
    value = driver.value()
    assert [(row.id, row.name, row.key) for row in rows(store, "event")] == [(value, "order.shipped", "o1")]
    assert driver.dispatcher.events == [value]


def test_values_that_are_drawn_once(started: Started) -> None:
    seen: list[Any] = []

    async def body() -> None:
        seen.append((await step.now(), await step.random(), await step.uuid4(), await step.random()))
        await step.sleep("1h")

    driver = started(body)
    driver.finish()
    assert seen[0] == seen[1]
    now, random, unique, other = seen[0]
    assert now.tzinfo is not None
    assert 0 <= random < 1
    assert random != other
    assert isinstance(unique, uuid.UUID)
    assert list(driver.steps()) == ["now", "random", "uuid4", "random#2", "sleep"]
