"""Tasks that write down what each of their messages said, and which hooks and signals of Celery came."""

from __future__ import annotations

import json
import time
from typing import Any

from celery import Task, signals

from celery_durable import DurableTask, step
from tests.real.app import app
from tests.real.effects import effect, effects

PREFIX = "message:"


def write_down(request: Any) -> None:
    """What this pass's message said."""
    said = {
        "worker": request.hostname,
        "delivery": {name: value for name, value in (request.delivery_info or {}).items() if name != "redelivered"},
        "colour": (request.headers or {}).get("colour"),
        "expires": request.expires,
        "timelimit": request.timelimit,
    }
    effect(request.id, PREFIX + json.dumps(said, separators=(",", ":"), default=str))


def messages(run: str) -> list[dict[str, Any]]:
    """What the messages of a run said, in order."""
    return [json.loads(one.name.removeprefix(PREFIX)) for one in effects(run) if one.name.startswith(PREFIX)]


def names(run: str) -> list[str]:
    """The other effects of a run."""
    return [one.name for one in effects(run) if not one.name.startswith(PREFIX)]


@app.task(base=DurableTask, bind=True)
def carried(self: Task, value: Any = 0, naps: float = 0.2, fail: bool = False) -> Any:
    """Two suspensions, and each of the three passes writes down its message."""
    write_down(self.request)
    step.sleep("first", naps)
    step.sleep("second", naps)
    if fail:
        raise ValueError(f"failed with {value}")
    return value + 1


@app.task(base=DurableTask, bind=True)
def carried_by_route(self: Task) -> None:
    """As `carried`; the test's configuration has a route for it."""
    write_down(self.request)
    step.sleep("first", 0.2)
    step.sleep("second", 0.2)


class InOther(DurableTask):
    """With a queue of its own."""

    abstract = True
    queue = "other"
    priority = 2


@app.task(base=InOther, bind=True, shared=False)
def carried_by_class(self: Task) -> None:
    """As `carried`, and other apps in this process do not know the task."""
    write_down(self.request)
    step.sleep("first", 0.2)
    step.sleep("second", 0.2)


@app.task(base=DurableTask, bind=True)
def slow_at_last(self: Task, naps: float, seconds: float) -> str:
    """Two suspensions, and a last pass that takes long."""
    write_down(self.request)
    step.sleep("first", naps)
    step.sleep("second", naps)
    step.run("slow", time.sleep, seconds)
    return "done"


class Hooked(DurableTask):
    """Each hook of Celery is an effect."""

    abstract = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        effect(task_id, "before_start")

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        effect(task_id, "on_success")

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        effect(task_id, "on_failure")

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        effect(task_id, f"after_return:{status}")


@app.task(base=Hooked)
def hooked(fail: bool = False) -> str:
    step.sleep("first", 0.2)
    step.sleep("second", 0.2)
    if fail:
        raise ValueError("failed")
    return "done"


@signals.task_prerun.connect
def on_prerun(task_id: str = "", task: Any = None, **_: Any) -> None:
    if task.name == hooked.name:
        effect(task_id, "task_prerun")


@signals.task_postrun.connect
def on_postrun(task_id: str = "", task: Any = None, state: str = "", **_: Any) -> None:
    if task.name == hooked.name:
        effect(task_id, f"task_postrun:{state}")


@signals.task_success.connect
def on_success(sender: Any = None, **_: Any) -> None:
    if sender.name == hooked.name:
        effect(sender.request.id, "task_success")


@signals.task_failure.connect
def on_failure(sender: Any = None, task_id: str = "", **_: Any) -> None:
    if sender.name == hooked.name:
        effect(task_id, "task_failure")


@app.task
def add(value: Any, other: Any) -> Any:
    return value + other


@app.task
def total(values: Any) -> Any:
    return sum(values)


@app.task
def note_total(values: Any, run: str) -> Any:
    """The body of a chord, with an effect."""
    effect(run, "body")
    return sum(values)


@app.task
def note_error(request: Any, error: Any, traceback: Any, run: str) -> None:
    effect(run, "errback")


@app.task
def mark(run: str, name: str) -> None:
    """An error callback that is given nothing of the error."""
    effect(run, name)
