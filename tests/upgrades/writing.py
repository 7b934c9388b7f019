"""Executed with an old package: writes a run in each state into the database that it is given."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from celery.contrib.testing.worker import start_worker

import celery_durable
from celery_durable.worker.runtime import runtime_of

from .work import VERBS, make_app


def main() -> None:
    assert celery_durable.__file__.startswith(os.getcwd()), "the old package is expected"  # noqa: PTH109
    app = make_app(sys.argv[1], durable_auto_migrate=True)
    store = runtime_of(app).store
    expected = {"done": "completed", "failed": "failed", "asleep": "suspended", "between": "suspended"}
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=30):
        start = {"done": "sleeps", "failed": "fails"}
        if "event" in VERBS:
            start |= {"waiting": "waits"}
            expected |= {"waiting": "suspended"}
        if "call" in VERBS:
            start |= {"called": "calls"}
            expected |= {"called": "completed"}
        for run_id, name in start.items():
            app.tasks[f"upgrades.{name}"].apply_async((run_id,), task_id=run_id)
        wait(store, {name: expected[name] for name in start})
        last = {"asleep": "sleeps", "between": "tries"}
        if "call" in VERBS:
            last |= {"calling": "calls"}
            expected |= {"calling": "suspended"}
        for run_id, name in last.items():
            app.tasks[f"upgrades.{name}"].apply_async((run_id,), task_id=run_id)
        wait(store, expected)
    app.tasks["upgrades.sleeps"].apply_async(("begun",), task_id="begun")  # nobody has taken it
    app.tasks["upgrades.sleeps"].apply_async(("dead",), task_id="dead")
    with store.link() as link:
        store.claim(link, "dead", worker="a worker that died", lease=1_000)


def wait(store: Any, expected: dict[str, str]) -> None:
    end = time.monotonic() + 60
    found: dict[str, str] = {}
    while found != expected:
        if time.monotonic() > end:
            raise SystemExit(f"expected {expected}, found {found}")
        time.sleep(0.02)
        with store.link() as link:
            rows = {run_id: store.get(link, run_id) for run_id in expected}
        found = {run_id: row[0]["status"] for run_id, row in rows.items() if row is not None}


if __name__ == "__main__":
    main()
