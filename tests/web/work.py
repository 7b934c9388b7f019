"""What the three sites have in common: Celery's configuration, from the environment, and the tasks."""

from __future__ import annotations

import os
import signal
from typing import Any

from celery import Celery

from celery_durable import DurableTask, Event, on_event, step
from celery_durable.worker.dispatch import event_emitted

TOKEN = "a-token-of-the-tests"
SECRET = "the secret of a neighbour"

DATABASE = os.environ.get("WEB_DATABASE", "")
"""The URL of the durable database, which is the site's own, too."""
OTHER_DATABASE = os.environ.get("WEB_OTHER_DATABASE", "")
"""The path of a file of SQLite."""

UNSERVED = "unserved"
"""A queue without any worker: what was sent there can be counted."""


def celery_config() -> dict[str, Any]:
    return {
        "broker_url": os.environ["WEB_REDIS"],
        "result_backend": os.environ["WEB_REDIS"],
        "broker_connection_retry_on_startup": True,
        "worker_enable_remote_control": False,
        "durable_database_url": DATABASE,
        "durable_auto_migrate": False,
        "durable_door_tokens": [TOKEN],
        "durable_door_secrets": [SECRET],
    }


def declare(app: Celery) -> dict[str, Any]:
    """The tasks, for an app."""
    if os.environ.get("WEB_DIES_AT"):
        # Before the first durable task, so that this receiver comes before the one that sends the dispatch.
        event_emitted.connect(die, weak=False)

    @app.task(base=DurableTask, name="web.onboard")
    def onboard(user: str) -> Any:
        step.run("create", str, user)
        return payload_of(step.wait_for_event("email.verified", key=f"user:{user}", timeout="50s", on_timeout="fail"))

    @app.task(base=DurableTask, name="web.wait_for")
    def wait_for(event: str, key: str) -> Any:
        return payload_of(step.wait_for_event("it", event, key=key, timeout="50s", on_timeout="fail"))

    @app.task(base=DurableTask, name="web.on_parcel", triggers=[on_event("parcel.*")])
    def on_parcel(event: Event) -> Any:
        return [event.name, event.payload]

    @app.task(name="web.ordinary")
    def ordinary(value: str) -> str:
        return value

    return {task.name.partition(".")[2]: task for task in (onboard, wait_for, on_parcel, ordinary)}


def payload_of(event: Event | None) -> Any:
    assert event is not None
    return event.payload


def die(event_id: str = "", name: str = "", **_: Any) -> None:
    """The process ends as by a power cut: the event is committed, its dispatch is not sent."""
    if name == os.environ["WEB_DIES_AT"]:
        os.kill(os.getpid(), signal.SIGKILL)
