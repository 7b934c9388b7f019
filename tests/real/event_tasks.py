"""Tasks that wait for events, and tasks that events start."""

from __future__ import annotations

from typing import Any

from celery import Task

from celery_durable import DurableTask, Event, on_event, step
from tests.real.app import app
from tests.real.effects import effect


@app.task(base=DurableTask, bind=True)
def waits(self: Task, key: str, timeout: Any = None, on_timeout: Any = "none") -> Any:
    event = step.wait_for_event("clicked", key=key, timeout=timeout, on_timeout=on_timeout)
    step.run("after", effect, self.request.id, "after")
    return event and event.payload


@app.task(base=DurableTask, bind=True)
def waits_twice(self: Task, key: str) -> Any:
    """Two events of one name and key, each taken once and in their order."""
    first = step.wait_for_event("first", "race", key=key)
    second = step.wait_for_event("second", "race", key=key)
    assert first is not None
    assert second is not None
    return [first.payload, second.payload]


@app.task(base=DurableTask, bind=True, triggers=[on_event("customer.*", when={"plan": "pro"})])
def welcome(self: Task, event: Event) -> Any:
    step.run("greet", effect, event.payload["name"], "greet")
    sent = step.emit("tell", "welcomed", {"name": event.payload["name"]}, key=event.payload["name"])
    return [event.name, event.id, sent]


@app.task(base=DurableTask, bind=True)
def asks_and_answers(self: Task, key: str) -> Any:
    """Waits for what a run does that it has started itself, by an event."""
    step.emit("ask", "customer.asked", {"plan": "pro", "name": key})
    told = step.wait_for_event("told", "welcomed", key=key, timeout="20s", on_timeout="fail")
    assert told is not None
    return told.payload


@app.task
def add_one(value: Any) -> Any:
    return [value, 1]


@app.task
def gather(values: Any) -> Any:
    return sorted(str(value) for value in values)
