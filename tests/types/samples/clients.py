"""Declaring tasks, calling them, the client, and the testing kit."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.result import AsyncResult
from typing_extensions import assert_type

from celery_durable import (
    Concurrency,
    Durable,
    DurableTask,
    Event,
    EventReceipt,
    EventRecord,
    Run,
    Stats,
    StepRecord,
    emit,
    on_event,
    on_schedule,
    step,
)
from celery_durable.testing import DurableEnv

app = Celery("types")


@app.task(base=DurableTask, triggers=[on_event("order.paid"), on_schedule(60)], concurrency=Concurrency(2))
def ship(order: str) -> str:
    return step.run("ship", str.upper, order)


@app.task(base=DurableTask, bind=True, run_timeout="1h")
def bound(self: DurableTask, order: str) -> None:
    step.run("id", lambda: str(self.request.id))


def calls() -> None:
    assert_type(ship, DurableTask)
    assert_type(ship.delay("o-1"), AsyncResult[Any])
    assert_type(ship.apply_async(("o-1",), task_id="o-1", countdown=60), AsyncResult[Any])
    assert_type(ship.delay_on_commit("o-1"), AsyncResult[Any])
    assert_type(bound.name, str)
    step.call("ship", ship.s("o-1"))


def reads(durable: Durable) -> None:
    run = durable.get("o-1")
    assert_type(run, Run)
    assert_type(run.steps, tuple[StepRecord, ...])
    for each in durable.runs(status="failed", task=ship.name, limit=10):
        assert_type(each, Run)
    assert_type(durable.retry("o-1"), Run)
    assert_type(durable.cancel("o-1", reason="asked for"), Run)
    assert_type(durable.event("e-1"), EventRecord)
    assert_type(durable.stats(), Stats)
    assert_type(durable.prune("30d"), int)
    assert_type(durable.migrate(), bool)
    assert_type(durable.export("o-1"), str)


def emits(session: object) -> None:
    assert_type(emit("order.paid", {"order": 1}, key="o-1", event_id="e-1", session=session), EventReceipt)
    assert_type(Durable(app).emit("order.paid"), EventReceipt)
    emit(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def of_an_event(event: Event) -> None:
    assert_type(event.name, str)
    assert_type(event.key, str | None)


def test_ship(durable_env: DurableEnv) -> None:
    run = durable_env.start(ship, "o-1")
    durable_env.mock(str.upper, returns="O-1")
    durable_env.advance("1d")
    assert_type(durable_env.emit("order.paid"), EventReceipt)
    assert_type(run.record, Run)
    assert_type(run.step("ship"), StepRecord)
    assert_type(run.waiting_on, str | None)
    run.assert_completed("O-1")
