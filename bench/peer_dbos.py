"""DBOS doing what ``bench.peers`` asks for, in an environment of its own: ``python -m bench.peer_dbos URL``.

Workflows are started in the process that executes them, on its threads, which is DBOS's quickest way. Where one comes
by a queue, it is asked for ten times as often as by default.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import uuid
from functools import cache
from typing import Any

from dbos import DBOS, SetWorkflowID  # type: ignore[import-not-found,unused-ignore]  # in its own environment alone

from bench import order_steps
from bench.peer_talk import serve

# mypy: disable-error-code="untyped-decorator,unused-ignore"

QUEUE = "bench"
POLLING = 0.1
"""Seconds between two looks at the queue; by default it is 1."""

waiting: list[str] = []
"""The runs that wait for a message, the longest first."""


nothing = DBOS.step()(order_steps.nothing)
reserve, charge, ship, mail = (DBOS.step()(function) for function in order_steps.ORDER)


@DBOS.workflow()
def many_steps(count: int) -> float:
    """Seconds from the first line of the body to the last."""
    began = time.perf_counter()
    for _ in range(count):
        nothing()
    return time.perf_counter() - began


@DBOS.workflow()
def order(number: int) -> dict[str, Any]:
    return mail(ship(charge(reserve({"order": number}))))  # type: ignore[no-any-return]


@DBOS.workflow()
def time_of_body() -> float:
    return time.time()


@DBOS.step()
def now() -> float:
    return time.time()


@DBOS.workflow()
def waits() -> float:
    DBOS.recv("bench.event", timeout_seconds=3600)
    return now()  # type: ignore[no-any-return]


@DBOS.workflow()
def naps(count: int, every: int) -> None:
    for number in range(1, count + 1):
        if number % every == 0:
            DBOS.sleep(0.001)
        else:
            nothing()


@DBOS.workflow()
def asleep(seconds: float) -> tuple[float, float]:
    """When the sleep was asked for, and the first line of the step after it."""
    asked = time.time()
    DBOS.sleep(seconds)
    return asked, now()


@DBOS.workflow()
async def asleep_async(seconds: float) -> tuple[float, float]:
    asked = time.time()
    await DBOS.sleep_async(seconds)
    return asked, await DBOS.run_step_async(None, now)


# ---------------------------------------------------------------- what is asked for


def steps(count: int) -> list[float]:
    began = time.perf_counter()
    many_steps(count)
    return [time.perf_counter() - began]


def replay(count: int) -> list[float]:
    """The records of a finished run, reused by a fork of it. The time is the body's own: a fork comes by a queue."""
    run_id = uuid.uuid4().hex
    with SetWorkflowID(run_id):
        many_steps(count)
    return [DBOS.fork_workflow(run_id, count + 1).get_result()]


def orders(count: int) -> list[float]:
    began = time.perf_counter()
    handles = [DBOS.start_workflow(order, number) for number in range(count)]
    for handle in handles:
        handle.get_result()
    return [time.perf_counter() - began]


def starts(count: int) -> list[float]:
    return _starts(count, lambda: DBOS.start_workflow(time_of_body))


def starts_queued(count: int) -> list[float]:
    _has_queue()
    return _starts(count, lambda: DBOS.enqueue_workflow(QUEUE, time_of_body))


@cache
def _has_queue() -> None:
    """Only where it is asked for: a queue is looked at all the time."""
    DBOS.register_queue(QUEUE, polling_interval_sec=POLLING)


def _starts(count: int, start: Any) -> list[float]:
    found = []
    for _ in range(count):
        began = time.time()
        found.append(start().get_result() - began)
        time.sleep(0.01)
    return found


def events(parked: int, emits: int, pause: float) -> list[float]:
    while len(waiting) < parked:
        waiting.append(DBOS.start_workflow(waits).workflow_id)
    time.sleep(1)  # until the last of them waits
    woken, sent = waiting[:emits], []
    for run_id in woken:
        sent.append(time.time())
        DBOS.send(run_id, {"number": len(sent)}, "bench.event")
        time.sleep(pause)
    del waiting[:emits]
    first_lines = [DBOS.retrieve_workflow(run_id).get_result() for run_id in woken]
    return [line - at for line, at in zip(first_lines, sent, strict=True)]


def suspends(count: int, every: int) -> list[float]:
    began = time.perf_counter()
    naps(count, every)
    return [time.perf_counter() - began]


def sleeps(count: int, seconds: float, pause: float) -> list[float]:
    handles = []
    for _ in range(count):
        handles.append(DBOS.start_workflow(asleep, seconds))
        time.sleep(pause)
    return [woke - asked - seconds for asked, woke in (handle.get_result() for handle in handles)]


def parked(count: int) -> list[float]:
    began = time.perf_counter()
    for _ in range(count):
        DBOS.start_workflow(asleep, 3600.0)
    return [time.perf_counter() - began]


def parked_async(count: int) -> list[float]:
    """Started in an event loop, so that each is a task of it."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def start() -> None:
        for _ in range(count):
            await DBOS.start_workflow_async(asleep_async, 3600.0)

    began = time.perf_counter()
    asyncio.run_coroutine_threadsafe(start(), loop).result()
    return [time.perf_counter() - began]


def main() -> None:
    DBOS(config={"name": "bench", "system_database_url": sys.argv[1], "log_level": "ERROR"})
    DBOS.launch()
    asked = (
        steps, replay, orders, starts, starts_queued, events, suspends, sleeps, parked, parked_async,
    )  # fmt: skip
    serve({function.__name__: function for function in asked})


if __name__ == "__main__":
    main()
