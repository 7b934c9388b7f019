"""The Celery app of the events benchmark, configured by the environment."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from celery import Celery

from celery_durable import DurableTask, step

__all__ = ["VARIABLE", "app", "waits"]

VARIABLE = "BENCH_EVENTS"

app = Celery("bench")
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_enable_remote_control=False,
    durable_auto_migrate=True,
    **json.loads(os.environ.get(VARIABLE, "{}")),
)


@app.task(base=DurableTask, ignore_result=True, name="bench.waits")
def waits(key: str) -> Any:
    step.wait_for_event("bench.event", key=key)
    return step.run("first line", time.time)
