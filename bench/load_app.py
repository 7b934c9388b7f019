"""The Celery app of the load benchmarks, configured by the environment."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from celery import Celery, signals

from celery_durable import DurableTask, step

__all__ = ["DROPPED", "VARIABLE", "app", "asleep", "short", "steps", "waiting"]

VARIABLE = "BENCH_LOAD"
DROPPED = "BENCH_LOAD_DROPPED"
"""Names a file that gets a byte for each message that had nothing to do."""

app = Celery("bench")
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_enable_remote_control=False,
    worker_prefetch_multiplier=4,
    **json.loads(os.environ.get(VARIABLE, "{}")),
)


@app.task(base=DurableTask, ignore_result=True, name="bench.asleep")
def asleep(seconds: float) -> Any:
    step.sleep("parked", seconds)
    return step.run("woke", time.time)


@app.task(base=DurableTask, ignore_result=True, name="bench.waiting")
def waiting(key: str | None) -> Any:
    step.wait_for_event("parked", event="bench.load", key=key)
    return step.run("woke", time.time)


@app.task(base=DurableTask, ignore_result=True, name="bench.short")
def short(number: int) -> Any:
    return step.run("only", time.time)


@app.task(base=DurableTask, ignore_result=True, name="bench.steps")
def steps(number: int, size: int) -> None:
    for index in range(number):
        step.run(f"step-{index}", str.upper, "x" * size)


@signals.task_postrun.connect
def count_dropped(retval: Any = None, **_: Any) -> None:
    if type(retval).__name__ == "Dropped":
        with Path(os.environ[DROPPED]).open("ab") as counted:
            counted.write(b".")
