"""The app of ``tests/real/app.py``, with a task on a schedule: for the beats and the worker of that test."""

from __future__ import annotations

from celery import Task

from celery_durable import DurableTask, step
from celery_durable.worker.schedules import on_schedule
from tests.real.app import app
from tests.real.effects import effect

__all__ = ["app"]

SECONDS = 2


@app.task(base=DurableTask, bind=True, triggers=[on_schedule(SECONDS, args=("beat",))])
def ticking(self: Task, by: str) -> str:
    step.run("effect", effect, self.request.id, by)
    step.sleep("nap", 0.1)
    return by
