"""``@step``, ``step.wrap`` and ``step.current()`` in ``async def`` tasks; retries, timeouts and errors of steps."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from celery_durable.aio import step
from celery_durable.engine.executor import Finished
from tests.waiting import wait_until

from .blocks import ONCE
from .test_async import Order, Started, awaited, order, passes

flavour: contextvars.ContextVar[str] = contextvars.ContextVar("flavour", default="none")


# -- @step


@step
async def fetch(name: str) -> str:
    """Its docstring."""
    return str(await awaited(name.upper()))


@step
def count(name: str) -> int:
    return len(name)


@step(retry=ONCE, timeout="10s", returns=Order)
async def typed() -> Any:
    assert await fetch("inside") == "INSIDE"  # in a step it is a plain function
    assert count("inside") == 6  # type: ignore[comparison-overlap]
    return order(1)


def test_decorated_functions(started: Started) -> None:
    seen: list[Any] = []

    async def body() -> list[Any]:
        found: list[Any] = [await fetch("a"), await fetch("b"), await count("abc")]
        seen.append(await typed())
        await step.sleep("1h")
        return [*found, await fetch("c")]

    driver = started(body)
    assert driver.value() == ["A", "B", 3, "C"]
    assert seen == [order(1)] * 2
    assert list(driver.steps()) == ["fetch", "fetch#2", "count", "typed", "sleep", "fetch#3"]


def test_decorated_functions_outside_a_run() -> None:
    assert asyncio.run(fetch("outside")) == "OUTSIDE"
    outside: Any = count("outside")
    assert outside == 7
    assert (fetch.__name__, fetch.__doc__) == ("fetch", "Its docstring.")


# -- step.wrap


class Client:
    region = "eu"

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.chat = self

    async def post(self, text: str) -> dict[str, str]:
        self.calls.append(text)
        await asyncio.sleep(0)
        return {"text": text}

    def whoami(self) -> str:
        return "me"

    async def fail(self) -> None:
        raise ValueError("refused")


def test_a_wrapped_object(started: Started) -> None:
    client = Client()

    async def body() -> list[Any]:
        wrapped: Any = step.options(retry=ONCE).wrap("slack", client)
        found: list[Any] = [await wrapped.chat.post("a"), await wrapped.whoami(), wrapped.region]
        await step.sleep("nap", "1h")
        found += await asyncio.gather(wrapped.chat.post(text="b"), wrapped.chat.post("c"))
        try:
            await wrapped.fail()
        except ValueError as error:
            found.append(str(error))
        return found

    driver = started(body)
    assert driver.value() == [{"text": "a"}, "me", "eu", {"text": "b"}, {"text": "c"}, "refused"]
    assert sorted(client.calls) == ["a", "b", "c"]
    assert sorted(driver.steps()) == sorted(
        ["slack.chat.post#1", "slack.whoami#1", "nap", "slack.chat.post#2", "slack.chat.post#3", "slack.fail#1"]
    )


# -- step.current()


def of_current() -> list[Any]:
    context = step.current()
    return [context.run_id, context.step_id, context.attempt, context.idempotency_key]


async def async_of_current() -> list[Any]:
    await asyncio.sleep(0)
    return of_current()


def test_the_step_that_is_being_run(started: Started) -> None:
    async def body() -> Any:
        return await asyncio.gather(step.run("a", of_current), step.run("b", async_of_current))

    assert started(body).value() == [["r1", "a", 1, "r1:a"], ["r1", "b", 1, "r1:b"]]


@pytest.mark.parametrize("is_async", [True, False])
def test_heartbeats(started: Started, is_async: bool) -> None:
    found: list[Any] = []

    def work() -> str:
        found.append(step.current().last_heartbeat)
        for number in range(len(found)):
            step.current().heartbeat({"page": number})
        if len(found) < 3:
            raise ConnectionError("again")
        return "done"

    async def async_work() -> str:
        await asyncio.sleep(0)
        return work()

    async def body() -> str:
        return await step.run("pages", async_work if is_async else work)

    assert started(body).value() == "done"
    assert found == [None, {"page": 0}, {"page": 1}]


def test_a_cancelled_step_on_a_thread_hears_of_it_by_its_heartbeat(started: Started) -> None:
    begun, let_go, heard = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        let_go.wait(60)
        try:
            step.current().heartbeat(1)
        except Exception:
            heard.set()

    async def body() -> str:
        task = asyncio.ensure_future(step.run("slow", work))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        await step.sleep("nap", "1h")
        return "went on"

    driver = started(body)
    assert driver.value() == "went on"
    let_go.set()
    wait_until(heard.is_set)
    assert driver.steps()["slow"]["status"] == "cancelled"


def test_context_variables_reach_steps(started: Started) -> None:
    async def on_loop() -> str:
        return flavour.get()

    async def branch(name: str) -> list[str]:
        flavour.set(name)
        return [await step.run(f"loop {name}", on_loop), await step.run(f"thread {name}", flavour.get)]

    async def body() -> list[Any]:
        flavour.set("body")
        found: list[Any] = list(await asyncio.gather(branch("a"), branch("b"), step.run("own", on_loop)))
        return [*found, flavour.get()]

    assert started(body).value() == [["a", "a"], ["b", "b"], "body", "body"]


# -- A transaction beside other steps


def test_a_transaction_has_its_place_when_the_body_is_told(started: Started) -> None:
    """It has been committed when the other step ends, and the loop hears of it when the body was told of that one."""
    committed, told = threading.Event(), threading.Event()

    def tell(what: str, **facts: Any) -> None:
        if what == "step_returned" and facts["step"].kind == "transaction":
            committed.set()
            assert told.wait(30)

    async def body(log: list[Any]) -> str:
        async def transaction() -> None:
            log.append(await step.transaction("transaction", lambda session: "transaction"))

        async def beside() -> None:
            assert await step.run("beside", committed.wait, 30)
            log.append("beside")
            told.set()

        await asyncio.gather(transaction(), beside())
        await step.sleep("nap", "1h")
        return "done"

    driver = started(body)
    driver.dispatcher.tell = tell  # type: ignore[method-assign]
    ended, logs = passes(driver)
    assert ended == Finished("done")
    assert logs == [["beside", "transaction"]] * 2
