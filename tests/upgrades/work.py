"""Workflows that all versions so far can execute, as far as they have the verbs. They are not to be changed."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from celery_durable import DurableTask, Retry, step

VERBS = os.environ.get("UPGRADE_VERBS", "event call").split()
"""What the version has besides steps and sleeps."""


def refuse() -> None:
    raise ValueError("no")


def note(what: str) -> str:
    return what.upper()


def make_app(database_url: str, **config: Any) -> Celery:
    app = Celery("upgrades", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(durable_database_url=database_url, durable_lease="1s", **config)

    @app.task(base=DurableTask, name="upgrades.sleeps", shared=False)
    def sleeps(order: str) -> list[Any]:
        first = step.run("first", note, order)
        step.sleep("nap", "3s")
        return [first, step.run("second", note, "done"), step.now() is not None]

    @app.task(base=DurableTask, name="upgrades.fails", shared=False)
    def fails(order: str) -> str:
        step.run("first", note, order)
        step.options(retry=Retry(max_attempts=1)).run("refused", refuse)
        return "never"

    @app.task(base=DurableTask, name="upgrades.tries", shared=False)
    def tries(order: str) -> str:
        try:
            step.options(retry=Retry(max_attempts=2, delay="3s", jitter=False)).run("refused", refuse)
        except ValueError as error:
            return f"{order}: {error}"
        return "never"

    @app.task(base=DurableTask, name="upgrades.waits", shared=False)
    def waits(order: str) -> list[Any]:
        first = step.run("first", note, order)
        event = step.wait_for_event("answered", key=order, match={"ok": True})
        assert event is not None
        return [first, event.payload]

    @app.task(base=DurableTask, name="upgrades.calls", shared=False)
    def calls(order: str) -> list[Any]:
        with step.parallel() as p:
            below, beside = p.call("below", sleeps.s(order)), p.call("beside", plain.s(2))
        return [below.result(), beside.result()]

    @app.task(name="upgrades.plain", shared=False)
    def plain(number: int) -> int:
        return number + 1

    return app
