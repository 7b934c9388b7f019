"""What the tests of blocks share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

from celery_durable import (
    Retry,
    step,
)
from celery_durable.errors import StepCancelled
from celery_durable.model import FINISHED

from .driving import Driver
from .test_events import rows

Started = Callable[..., Driver]

ONCE = Retry(max_attempts=1)

untyped: Any = step
"""The verbs, for uses that a type checker would refuse."""


def has_ended(step_id: str) -> bool:
    """Whether the function of this branch, begun before, has ended and been handed over."""
    return all(thread.name != f"celery-durable {step_id}" for thread in threading.enumerate())


def fail(message: str = "no") -> Any:
    raise ValueError(message)


def time_is_up(driver: Driver, step_id: str) -> None:
    """What this step waits for is over, and nothing else."""
    tables, store = driver.store.tables, driver.store
    with store.link() as link:
        now = store.now(link)
    with store.engine.begin() as connection:
        of_step = (tables.step.c.run_id == "r1", tables.step.c.id == step_id)
        connection.execute(update(tables.step).where(*of_step).values(wake_at=now))
        connection.execute(update(tables.run).where(tables.run.c.id == "r1").values(wake_at=None))


def child_of(driver: Driver, step_id: str) -> str:
    found = driver.steps()[step_id]["child"]
    assert isinstance(found, str)
    return found


def end_child(driver: Driver, step_id: str, body: Callable[[], Any]) -> None:
    """The run that a step calls has this body, and a pass."""
    Driver(driver.store, body).one_pass(child_of(driver, step_id))


def statuses(driver: Driver) -> dict[str, str]:
    """How the steps stand. A sleep that is over stays as it was written."""
    with driver.store.link() as link:
        now = driver.store.now(link)
    return {
        name: "completed" if row["kind"] == "sleep" and (row["wake_at"] or now) < now else row["status"]
        for name, row in driver.steps().items()
    }


def check_nothing_dangles(driver: Driver) -> None:
    """Nothing that the run's blocks began goes on without them."""
    assert rows(driver.store, "wait") == []
    for run in rows(driver.store, "run"):
        assert run.parent_id is None or run.status in FINISHED or run.cancelling is not None, run
    assert "waiting" not in statuses(driver).values()
    assert "started" not in statuses(driver).values()


def outcome(future: Any) -> str:
    assert future.done()
    if future.cancelled():
        with pytest.raises(StepCancelled):
            future.result()
        assert isinstance(future.exception(), StepCancelled)
        return "cancelled"
    if future.exception() is None:
        future.result()
        return "completed"
    with pytest.raises(type(future.exception())):
        future.result()
    return type(future.exception()).__name__
