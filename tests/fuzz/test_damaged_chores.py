"""What the sweeper does, among rows that are damaged, on each database: one bad row keeps no other back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from celery_durable import DurableTask
from celery_durable.core.duration import SECOND
from celery_durable.store.records import Claim, NewRun
from celery_durable.worker.dispatch import dispatch
from tests.worker.conftest import Desk

from .damaging import DAMAGES, damage

MESSAGES = {
    **DAMAGES,
    "no body": "{}",
    "an unknown serializer": json.dumps({"type": "x", "encoding": "utf-8", "body": "{}", "base64": False}),
    "an unknown encoding": json.dumps({"type": "application/json", "encoding": "x", "body": "{}", "base64": False}),
    "pickle": json.dumps(
        {"type": "application/x-python-serialize", "encoding": "binary", "body": "gASVAA==", "base64": True}
    ),
    "options of the wrong kinds": json.dumps(
        {
            "type": "application/json", "encoding": "utf-8", "base64": False,
            "body": '{"priority":"high","queue":7,"headers":[1],"link":5,"exchange":{"x":1},"of_task":3}',
        }
    ),
    "a task of the wrong kind": json.dumps(
        {"type": "application/json", "encoding": "utf-8", "base64": False, "body": '{"priority":{},"headers":[1]}'}
    ),
}  # fmt: skip


@pytest.fixture
def desk(database_url: str) -> Iterator[Desk]:
    app = Celery("desk", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(
        durable_database_url=database_url,
        durable_auto_migrate=True,
        task_default_queue=f"desk-{uuid.uuid4().hex[:8]}",
        task_publish_retry=False,
    )

    @app.task(shared=False, base=DurableTask, name="ship")
    def ship(order: str = "") -> None: ...

    @app.task(shared=False, name="plain")
    def plain(order: str = "") -> None: ...

    made = Desk(app)
    made.messages()
    yield made
    made.store.engine.dispose()
    app.close()


def make_due(desk: Desk) -> None:
    run = desk.store.tables.run
    with desk.store.engine.begin() as connection:
        connection.execute(run.update().values(due_at=1))


def sent(desk: Desk) -> set[str]:
    return {str(message.headers["id"]) for message in desk.messages()}


def test_due_runs(desk: Desk) -> None:
    ship, bad = desk.app.tasks["ship"], {}
    for number, text in enumerate(MESSAGES.values()):
        for column in ("message", "arguments"):
            bad[f"bad-{number:02}-{column}"] = (column, text)
    for run_id in [*bad, "good"]:
        ship.apply_async(("o",), task_id=run_id)
    desk.messages()
    make_due(desk)
    for run_id, (column, text) in bad.items():
        damage(desk.store, "input", column, text, run_id=run_id)

    desk.tick()
    assert "good" in sent(desk)
    for run_id in bad:
        run = desk.durable.get(run_id)
        if run.status == "paused":
            assert str(run.waiting_on).startswith("damaged: ")
        else:
            assert desk.row(run_id)["due_at"] > 1, "it is not looked at again at once"
    paused = {run.id for run in desk.durable.runs(status="paused", limit=1000)}
    assert len(paused) >= 2 * len(DAMAGES) - 2  # a text with a number in it may be the arguments of a call

    make_due(desk)  # what was paused is not due
    desk.tick()
    assert "good" in sent(desk)


def test_runs_whose_worker_died(desk: Desk) -> None:
    desk.app.conf.durable_max_recoveries = 1
    ship = desk.app.tasks["ship"]
    for number, text in enumerate([*MESSAGES.values(), ""]):
        ship.apply_async(("o",), task_id=f"run-{number:02}")
        with desk.store.link() as link:
            assert isinstance(desk.store.claim(link, f"run-{number:02}", worker="dead", lease=SECOND), Claim)
        damage(desk.store, "input", "message", text, run_id=f"run-{number:02}")
    make_due(desk)
    desk.tick()
    assert {run.status for run in desk.durable.runs(limit=1000)} == {"paused"}


def test_called_tasks_that_are_silent(desk: Desk) -> None:
    with desk.store.link() as link:
        for number, text in enumerate(MESSAGES.values()):
            desk.store.start(link, NewRun(f"bad-{number:02}", "plain", "[[],{}]", "h", text, kind="task"))
        kept = json.dumps({"type": "application/json", "encoding": "utf-8", "body": "{}", "base64": False})
        desk.store.start(link, NewRun("good", "plain", "[[],{}]", "h", kept, kind="task"))
    make_due(desk)
    desk.tick()
    assert "good" in sent(desk)
    assert all(desk.row(f"bad-{number:02}")["due_at"] > 1 for number in range(len(MESSAGES)))


def test_events_and_waits(desk: Desk) -> None:
    for number, text in enumerate(DAMAGES.values()):
        desk.durable.emit("asked", {"n": 1}, event_id=f"bad-{number:02}")
        damage(desk.store, "event", "payload", text, id=f"bad-{number:02}")
    desk.durable.emit("asked", {"n": 1}, event_id="good")
    event = desk.store.tables.event
    with desk.store.engine.begin() as connection:
        connection.execute(event.update().values(due_at=1))
    desk.messages()

    desk.tick()
    told = {message.decode()[0][0] for message in desk.messages()}
    assert {"good"} | {f"bad-{number:02}" for number in range(len(DAMAGES))} == told
    for event_id in sorted(told, reverse=True):
        dispatch(desk.app, event_id)
    records = desk.durable.events(limit=100)
    assert all(record.dispatched_at is not None for record in records)
    unreadable: list[Any] = [record.id for record in records if record.error]
    assert len(unreadable) >= 5
    assert "good" not in unreadable
