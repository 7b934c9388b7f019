"""The tasks of these tests. Each effect is counted under the id of the run."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from celery import Task
from pydantic import BaseModel

from celery_durable import DurableTask, Retry, step
from tests.real.app import app
from tests.real.effects import effect


class Order(BaseModel):
    id: str
    amount: int


class Singleton(DurableTask):
    """As celery-singleton does: no second message for an id that is locked until the task ends."""

    abstract = True
    locked: set[str] = set()  # noqa: RUF012

    def apply_async(self, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any) -> Any:
        if task_id in self.locked:
            raise AssertionError(f"{task_id} is locked: a resume must not come through here")
        result = super().apply_async(args, kwargs, task_id=task_id, **options)
        self.locked.add(result.id)
        return result

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.locked.add(self.request.id)
        return super().__call__(*args, **kwargs)


def work(run: str, name: str, seconds: float = 0.0) -> str:
    effect(run, name)
    time.sleep(seconds)
    return name


@app.task(base=DurableTask, bind=True)
def twice_parked(self: Task, value: int = 0, fail: bool = False) -> int:
    """Two suspensions in the middle."""
    step.run("begin", work, self.request.id, "begin")
    step.sleep("first", 0.2)
    step.run("middle", work, self.request.id, "middle")
    step.sleep("second", 0.2)
    step.run("end", work, self.request.id, "end")
    if fail:
        raise ValueError(f"failed with {value}")
    return value + 1


@app.task(base=Singleton, bind=True)
def single(self: Task) -> str:
    step.run("begin", work, self.request.id, "begin")
    step.sleep("nap", 0.2)
    return step.run("end", work, self.request.id, "end")


@app.task(base=DurableTask, pydantic=True)
def typed(order: Order) -> Order:
    step.sleep("nap", 0.2)
    return Order(id=order.id, amount=order.amount + 1)


@app.task(base=DurableTask, bind=True)
def naps(self: Task, seconds: float) -> str:
    step.run("before", work, self.request.id, "before")
    step.sleep("nap", seconds)
    return step.run("after", work, self.request.id, "after")


@app.task(base=DurableTask)
def asleep(seconds: float) -> None:
    step.sleep("long", seconds)


@app.task(base=DurableTask, bind=True)
def many_steps(self: Task, count: int, seconds: float) -> int:
    for index in range(count):
        step.run(f"step-{index}", work, self.request.id, f"step-{index}", seconds)
    return count


@app.task(base=DurableTask, bind=True)
def poison(self: Task) -> None:
    step.run("fine", work, self.request.id, "fine")
    step.run("deadly", os.kill, os.getpid(), signal.SIGKILL)


@app.task(base=DurableTask, bind=True, step_retry=Retry(max_attempts=1), autoretry_for=(KeyError,), max_retries=3)
def retried(self: Task) -> int:
    step.run("kept", work, self.request.id, "kept")
    step.run("failing", fails_until, self.request.retries, self.request.id)
    return int(self.request.retries)


def fails_until(retries: int, run: str) -> None:
    effect(run, "failing")
    if retries < 2:
        raise KeyError("not yet")


retried.default_retry_delay = 0.2


@app.task(base=DurableTask, bind=True, step_retry=Retry(max_attempts=4, delay=0.1))
def flaky(self: Task) -> int:
    return step.run("flaky", fails_thrice, self.request.id)


def fails_thrice(run: str) -> int:
    effect(run, "flaky")
    attempt = step.current().attempt
    if attempt < 4:
        raise ConnectionError(f"attempt {attempt}")
    return attempt


@app.task(base=DurableTask, bind=True)
def transacts(self: Task) -> str:
    step.transaction("pay", pay, self.request.id)
    step.sleep("nap", 0.2)
    step.run("notify", work, self.request.id, "notify")
    return "paid"


def pay(session: Any, run: str) -> None:
    from sqlalchemy import text

    session.execute(text("INSERT INTO payment (run) VALUES (:run)"), {"run": run})


@app.task(base=DurableTask, bind=True, time_limit=1)
def hard_limited(self: Task) -> None:
    step.run("slow", work, self.request.id, "slow", 30)


@app.task(base=DurableTask, bind=True, soft_time_limit=1)
def soft_limited(self: Task) -> None:
    step.run("slow", work, self.request.id, "slow", 30)


@app.task(bind=True)
def plain(self: Task, *values: Any) -> Any:
    effect(self.request.id, "plain")
    return ["plain", *values]


@app.task
def note(value: Any, run: str, name: str) -> None:
    """A callback: counted under the run that it was linked to."""
    effect(run, name)


@app.task
def note_error(request: Any, error: Any, traceback: Any, run: str) -> None:
    effect(run, "errback")
