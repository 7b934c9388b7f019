"""The Celery app of the suite's workers and of its producer: configured by the environment, as a careful user would."""

from __future__ import annotations

import json
import os

from celery import Celery

app = Celery("chaos")
app.conf.update(
    broker_connection_retry_on_startup=True,
    broker_transport_options={"visibility_timeout": 30},  # what a dead worker had fetched comes back within minutes
    durable_lease="4s",
    # An ordinary task whose result can't be stored, or whose callback can't be sent, has failed for Celery.
    result_backend_always_retry=True,
    task_publish_retry_policy={"max_retries": 20, "interval_start": 0.2, "interval_step": 0.2, "interval_max": 1},
    result_extended=True,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_proc_alive_timeout=60,
)
app.conf.update(json.loads(os.environ.get("CHAOS_CONFIG", "{}")))
app.autodiscover_tasks(["tests.chaos"], related_name="shapes")
