"""The Celery app of that project, and its tasks."""

from __future__ import annotations

import os
from typing import Any

import django
from celery import Celery, signature
from celery.result import AsyncResult, allow_join_result
from celery.utils.log import get_task_logger

from celery_durable import DurableTask, Retry, on_schedule, step

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.beside.settings")

logger = get_task_logger(__name__)

app = Celery("beside")
app.config_from_object("django.conf:settings", namespace="CELERY")
django.setup()


@app.task(base=DurableTask, name="beside.order")
def order(number: str) -> str:
    """Parked thrice: by a retry, by a sleep, by a wait."""
    step.options(retry=Retry(max_attempts=2, delay="0.2s", jitter=False)).run("charge", charge)
    step.sleep("rest", "0.2s")
    event = step.wait_for_event("order.paid", key=number, timeout="1m", on_timeout="fail")
    if event is not None and event.payload == "refused":
        raise ValueError(f"the payment of {number} was refused")
    return f"shipped {number}"


def charge() -> None:
    if step.current().attempt == 1:
        raise ConnectionError("no answer from the bank")


@app.task(base=DurableTask, name="beside.planned")
def planned(by: str) -> str:
    step.sleep("rest", "0.1s")
    return by


@app.task(base=DurableTask, name="beside.ticking", triggers=[on_schedule(2)])
def ticking() -> None:
    step.run("nothing", int)


@app.task(name="beside.plan")
def plan(name: str, by: str) -> None:
    """Make a periodic task of django-celery-beat's, as its admin does."""
    from django_celery_beat.models import IntervalSchedule, PeriodicTask

    interval, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.SECONDS)
    PeriodicTask.objects.create(name=name, task=planned.name, interval=interval, args=f'["{by}"]')


@app.task(name="beside.start_canvas")
def start_canvas(canvas: dict[str, Any]) -> None:
    signature(canvas, app=app).apply_async()


@app.task(name="beside.get")
def get(run_id: str) -> Any:
    """Wait for a result as any process of the project does."""
    result = AsyncResult(run_id, app=app)
    logger.info("%s is %s", run_id, result.state)
    with allow_join_result():
        return result.get(timeout=30)


@app.task(name="beside.total")
def total(parts: list[Any]) -> str:
    return ", ".join(map(str, parts))
