"""A project of its own, for commands that are processes of their own: configured by the environment."""

from __future__ import annotations

import os

from celery import Celery

from celery_durable import DurableTask, step

app = Celery("proj", broker="memory://")
app.conf.update(durable_database_url=os.environ.get("CLI_DATABASE", "sqlite://"), task_always_eager=True)


@app.task(base=DurableTask)
def packs(number: int) -> str:
    for each in range(number):
        step.run(f"pack-{each}", str, each)
        step.set_progress(each + 1, number, "日本")
    return "packed"
