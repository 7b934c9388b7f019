"""The durable tasks that are registered in an app: which there are, and what can be said of each."""

from __future__ import annotations

import inspect
import json
from typing import Any

from celery import Celery

from ..client.words import limit_says, retry_says
from ..core.duration import describe
from ..core.forms import arguments_schema
from ..core.match import covers
from ..errors import TaskNotFound
from ..model import TaskInfo
from .runtime import runtime_of
from .schedules import OnSchedule, schedule_says
from .task import DurableTask
from .triggers import OnEvent

__all__ = ["info_of", "task_named", "tasks_of", "triggered_by"]

_INTERNAL = "celery_durable."


def tasks_of(app: Celery) -> list[DurableTask]:
    """The user's durable tasks, by name."""
    found = [task for task in app.tasks.values() if isinstance(task, DurableTask)]
    return sorted((task for task in found if not task.name.startswith(_INTERNAL)), key=lambda task: str(task.name))


def task_named(app: Celery, name: str) -> DurableTask:
    """One of them. Raises ``TaskNotFound``."""
    there = {task.name: task for task in tasks_of(app)}
    if name in there:
        return there[name]
    if name in app.tasks:
        raise TaskNotFound(
            f"the task {name!r} is registered in this app, and is not durable: base=DurableTask is missing"
        )
    listed = ", ".join(there) or "none: import the modules that declare them"
    raise TaskNotFound(f"no durable task {name!r} is registered in this process; there are: {listed}")


def triggered_by(app: Celery, event: str) -> tuple[str, ...]:
    """The tasks of which an event of this name may start runs: whether it does is for its payload to say."""
    return tuple(
        str(task.name)
        for task in tasks_of(app)
        if any(isinstance(trigger, OnEvent) and covers(trigger.name, event) for trigger in task.triggers)
    )


def info_of(app: Celery, task: DurableTask) -> TaskInfo:
    """What can be said of a task."""
    settings = runtime_of(app).settings
    timeout, retention = task.length_of("run_timeout"), task.length_of("retention")
    return TaskInfo(
        name=task.name,
        doc=inspect.getdoc(task.run),
        parameters=arguments_schema(task.run),
        triggers=tuple(_trigger_says(trigger) for trigger in task.triggers),
        step_retry=retry_says(task.step_retry or settings.step_retry),
        run_timeout=None if timeout is None else describe(timeout),
        concurrency=None if task.concurrency is None else limit_says(task.concurrency),
        retention=describe(settings.retention if retention is None else retention),
        queue=_queue_of(app, task),
    )


def _trigger_says(trigger: OnEvent | OnSchedule) -> str:
    if isinstance(trigger, OnSchedule):
        return f"on schedule {schedule_says(trigger.schedule)}"
    when = f" when {json.dumps(trigger.when, ensure_ascii=False, default=str)}" if trigger.when else ""
    return f'on event "{trigger.name}"{when}'


def _queue_of(app: Celery, task: Any) -> str | None:
    """The queue that the task or a route names. What a route does with arguments that it is not given is its own."""
    try:
        route = app.amqp.router.lookup_route(task.name, (), {}, {}, task) or {}
    except Exception:
        route = {}
    queue = getattr(task, "queue", None) or route.get("queue")
    return None if queue is None else str(getattr(queue, "name", queue))
