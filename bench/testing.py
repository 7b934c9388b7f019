"""The testing kit: a workflow of thirty days, from its start to its end."""

from __future__ import annotations

import statistics
import time

from celery import Celery

from celery_durable import DurableTask, step
from celery_durable.testing import DurableEnv

SLEEPS, EVENTS, CHILDREN = 100, 20, 5
TURNS = 9

app = Celery("bench", broker="memory://", backend="cache+memory://", set_as_current=False)


@app.task(base=DurableTask)
def child(number: int) -> int:
    return step.run("double", int.__mul__, number, 2)


@app.task(base=DurableTask)
def thirty_days() -> int:
    total = 0
    for number in range(SLEEPS):
        step.sleep(f"nap-{number}", "7h12m")
        if number % (SLEEPS // EVENTS) == 0:
            step.wait_for_event(f"event-{number}", "go-on")
        if number % (SLEEPS // CHILDREN) == 0:
            total += step.call(f"call-{number}", child.s(number))
    return total


def once() -> float:
    began = time.perf_counter()
    with DurableEnv() as env:
        run = env.start(thirty_days)
        for _ in range(EVENTS):
            env.advance("36h")
            env.emit("go-on")
        env.advance("36h")
        run.assert_completed()
    return time.perf_counter() - began


def main() -> None:
    print(f"\ntesting: {SLEEPS} sleeps, {EVENTS} events and {CHILDREN} children in one environment, of {TURNS} turns")
    once()  # the first one imports, compiles and makes the tables
    times = sorted(once() for _ in range(TURNS))
    print(f"  median {statistics.median(times) * 1000:.0f} ms, best {times[0] * 1000:.0f} ms")
