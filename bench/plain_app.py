"""A Celery app without durable tasks, to compare with."""

from __future__ import annotations

import json
import os

from celery import Celery

app = Celery("bench")
given = json.loads(os.environ.get("BENCH_LOAD", "{}"))
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_enable_remote_control=False,
    worker_prefetch_multiplier=4,
    **{name: value for name, value in given.items() if not name.startswith("durable_")},
)
