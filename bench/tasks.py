"""The Celery app of the benchmarks that need workers: durable tasks, and the ordinary ones they are compared with."""

from __future__ import annotations

import time
from typing import Any

from bench import bare_order as bare
from bench import order_steps
from bench.workers import bench_app
from celery_durable import DurableTask, step

__all__ = [
    "app",
    "asleep",
    "bare_order",
    "fan_out",
    "gather",
    "naps",
    "order",
    "plain",
    "plain_time",
    "relay",
    "reserve",
    "time_of_body",
    "waits",
]

app = bench_app()

# ------------------------------------------------------------- an order, in four steps


@app.task(base=DurableTask, name="bench.order")
def order(number: int) -> Any:
    state = step.run("reserve", order_steps.reserve, {"order": number})
    state = step.run("charge", order_steps.charge, state)
    state = step.run("ship", order_steps.ship, state)
    return step.run("mail", order_steps.mail, state)


reserve, charge, ship, mail = (app.task(function, name=f"bench.{function.__name__}") for function in order_steps.ORDER)

bare_order = app.task(bare.bare_order, name="bench.bare_order", bind=True)

# ------------------------------------------------------------------- latencies


@app.task(base=DurableTask, ignore_result=True, name="bench.waits")
def waits(key: str) -> Any:
    step.wait_for_event("bench.event", key=key)
    return step.run("first line", time.time)


@app.task(base=DurableTask, name="bench.time_of_body")
def time_of_body() -> float:
    return time.time()


@app.task(name="bench.plain_time")
def plain_time() -> float:
    return time.time()


@app.task(name="bench.relay", ignore_result=True)
def relay(task_id: str) -> None:
    plain_time.apply_async(task_id=task_id)


# ------------------------------------------------------------------ suspensions


@app.task(base=DurableTask, name="bench.naps")
def naps(steps: int, every: int) -> None:
    """So many steps, of which each ``every``-th parks the run for the shortest of times."""
    for number in range(1, steps + 1):
        if number % every == 0:
            step.sleep(f"nap-{number}", 0.001)
        else:
            step.run(f"step-{number}", int)


@app.task(base=DurableTask, ignore_result=True, name="bench.sleeps")
def asleep(seconds: float) -> Any:
    step.sleep("parked", seconds)
    return step.run("woke", time.time)


# --------------------------------------------------------------------- fan-out


@app.task(name="bench.plain")
def plain(number: int) -> int:
    return number


@app.task(name="bench.gather")
def gather(values: list[int]) -> int:
    return sum(values)


@app.task(base=DurableTask, name="bench.fan_out")
def fan_out(width: int) -> int:
    with step.parallel() as block:
        called = [block.call(f"call-{number}", plain.s(number)) for number in range(width)]
    return sum(future.result() for future in called)
