"""The Celery app that the workers of these tests load: configured by the environment, tasks in ``tasks.py``."""

from __future__ import annotations

import json
import os

from celery import Celery

app = Celery("real")
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_enable_remote_control=False,
    task_track_started=False,
    durable_lease="3s",
    durable_max_recoveries=3,
    durable_auto_migrate=True,
    result_extended=True,
)
app.conf.update(json.loads(os.environ.get("REAL_CONFIG", "{}")))
app.autodiscover_tasks(["tests.real"])
app.autodiscover_tasks(["tests.real"], related_name="event_tasks")
app.autodiscover_tasks(["tests.real"], related_name="routing_tasks")
