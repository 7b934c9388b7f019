"""Whatever users call things and put into them is text on every page, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, Field
from werkzeug.test import Client

from celery_durable import Durable, DurableTask, Retry, on_event, step
from celery_durable.console import Console
from celery_durable.console.segments import to_segment
from tests.alone import alone

from .acting import hidden_of, send

EVIL = "<img src=x onerror=alert(1)>\"'</script><script>alert(1)</script>"


class Evil(BaseModel):
    """<script>alert(1)</script>"""

    word: str = Field(default=EVIL, title=EVIL, description=EVIL)
    choice: Literal[EVIL, "other"] = "other"  # type: ignore[valid-type]


@pytest.fixture
def client(tmp_path: Path) -> Client:
    app = alone("evil")
    app.conf.update(
        durable_database_url=f"sqlite:///{tmp_path}/evil.db", durable_auto_migrate=True, task_always_eager=True
    )

    @app.task(shared=False, name=f"task {EVIL}", base=DurableTask, triggers=[on_event(f"start {EVIL}")])
    def evil(given: Evil | dict = {}) -> None:  # noqa: B006
        pass

    evil.run.__doc__ = EVIL
    app.conf.task_routes = {evil.name: {"queue": EVIL}}

    @app.task(shared=False, name="waits", base=DurableTask)
    def waits(given: str) -> None:
        step.wait_for_event(f"wait {EVIL}", f"event {EVIL}", key=EVIL, form=Evil, prompt=EVIL)

    @app.task(shared=False, name="fails", base=DurableTask)
    def fails(given: str = EVIL) -> None:
        step.options(retry=Retry(max_attempts=1)).run(f"fail {EVIL}", fail)

    def fail() -> None:
        raise ValueError(EVIL)

    app.tasks["waits"].apply_async((EVIL,), task_id=f"run {EVIL}")
    app.tasks["fails"].apply_async(task_id="failed")
    durable = Durable(app)
    durable.emit(f"log {EVIL}", {EVIL: EVIL}, key=EVIL, event_id=f"event {EVIL}", by=EVIL, reason=EVIL)
    durable.emit(f"start {EVIL}", {"not": "what it takes"})
    durable.pause(f"run {EVIL}", by=EVIL, reason=EVIL)
    client = Client(Console(app, identify=lambda request: EVIL))
    client.get("/")
    return client


def pages() -> list[str]:
    run, event, task = to_segment(f"run {EVIL}"), to_segment(f"event {EVIL}"), to_segment(f"task {EVIL}")
    return [
        "/", "/events", f"/event/{event}", f"/events/emit?like={event}", "/tasks", f"/task/{task}",
        f"/task/{task}/start", "/task/waits", "/workers", "/deeds", f"/run/{run}/cancel", f"/run/{run}/resume",
        f"/run/{run}/replay", f"/run/{run}/replay?as=json", f"/run/{run}/answer",
        f"/run/{run}/fork", "/run/failed/retry", "/run/failed/fork", f"/run/{run}/retry",
        "/runs/retry?status=failed", "/runs/cancel?status=paused",
    ]  # fmt: skip


@pytest.mark.parametrize("path", pages())
def test_a_page_shows_it_as_text(client: Client, path: str) -> None:
    page = client.get(path)
    assert page.status_code in (200, 409)
    assert_harmless(page.text)


@pytest.mark.parametrize(
    "path",
    [
        f"/events?name={EVIL}", f"/events?key={EVIL}", f"/events?since={EVIL}",
        f"/events/emit?name={EVIL}&key={EVIL}&payload={EVIL}", f"/run/failed/fork?from={EVIL}",
        f"/run/failed/answer?step={EVIL}", f"/task/fails?span={EVIL}", f"/runs/cancel?task={EVIL}",
        f"/runs/cancel?status={EVIL}", f"/deeds?after={EVIL}", f"/run/{EVIL}/cancel", f"/task/{EVIL}", f"/event/{EVIL}",
    ],
)  # fmt: skip
def test_what_stands_in_the_address_is_text(client: Client, path: str) -> None:
    assert_harmless(client.get(path.replace("<", "%3C").replace("#", "%23").replace("/script", "%2Fscript")).text)


def test_what_is_typed_is_text_where_it_is_shown_again(client: Client) -> None:
    task, run = to_segment(f"task {EVIL}"), to_segment(f"run {EVIL}")
    names = ("f", "f/given", "f/word", "f/choice", "args", "kwargs", "task_id", "countdown", "reason")
    fields = dict.fromkeys(names, EVIL)
    event = {"name": EVIL, "key": EVIL, "event_id": EVIL, "reason": EVIL}
    for path, more in [
        (f"/task/{task}/start", {}),
        (f"/task/{task}/start?as=json", {}),
        (f"/run/{run}/answer", {}),
        ("/run/failed/replay?as=json", {}),
        ("/events/emit", event | {"payload": EVIL}),
        ("/events/emit", event | {"payload": json.dumps(EVIL)}),
    ]:
        answer = send(client, path, **fields | more)
        assert answer.status_code in (200, 400)
        assert_harmless(answer.text)


def test_what_was_done_is_told_as_text(client: Client) -> None:
    done = send(client, "/runs/cancel?status=paused", reason=EVIL)
    assert "Cancelled 1 run" in done.text
    assert_harmless(done.text)
    answer = client.post("/runs/retry?status=failed", data=hidden_of(client.get("/runs/retry?status=failed")))
    assert_harmless(answer.text)


def assert_harmless(text: str) -> None:
    assert "<img src=x" not in text
    assert "<script>alert" not in text
    assert text.count("<script") == text.count("</script>") == 1
    assert " style=" not in text
    assert "onerror=alert(1)>" not in text


def test_it_is_there_at_all(client: Client) -> None:
    assert "&lt;img src=x onerror=alert(1)&gt;" in client.get("/events").text
