"""Runs that every earlier version has left, in each state: migrated, today's code finishes them as if nothing was."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from celery.contrib.testing.worker import start_worker

from celery_durable import ConfigurationError, Durable, Run
from celery_durable.model import FINISHED
from celery_durable.store import schema
from celery_durable.store.store import Store
from tests.waiting import wait_until

from .old import VERSIONS, with_rows
from .work import make_app

ENDS: dict[str, tuple[str, Any]] = {
    "done": ("completed", ["DONE", "DONE", True]),
    "failed": ("failed", None),
    "asleep": ("completed", ["ASLEEP", "DONE", True]),
    "between": ("completed", "between: no"),
    "begun": ("completed", ["BEGUN", "DONE", True]),
    "dead": ("completed", ["DEAD", "DONE", True]),
    "waiting": ("completed", ["WAITING", {"ok": True}]),
    "called": ("completed", [["CALLED", "DONE", True], 3]),
    "calling": ("completed", [["CALLING", "DONE", True], 3]),
}


def test_rows_of_each_version_are_kept() -> None:
    unreleased = {"0004", "0005"}  # came with 0006, in one change: no package has ever written at these
    assert set(VERSIONS) | unreleased | {schema.HEAD} == set(schema.KNOWN), "python -m tests.upgrades.record VERSION"


@pytest.mark.parametrize("version", VERSIONS)
def test_runs_of_an_earlier_version_go_on_after_the_migration(database_url: str, version: str) -> None:
    store = Store(database_url)
    rows = with_rows(store, version)
    with pytest.raises(ConfigurationError, match="older version"):
        store.check_schema()
    assert store.migrate() is True
    store.engine.dispose()

    app = make_app(database_url, task_default_queue=f"upgrades-{uuid.uuid4().hex[:8]}", durable_sweep_interval="0.1s")
    durable = Durable(app)
    before = {row["id"]: durable.get(row["id"]) for row in rows["run"]}
    assert {run.id: run.status for run in before.values()} == {row["id"]: row["status"] for row in rows["run"]}
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=30):
        if "waiting" in before:
            durable.emit("answered", {"ok": False}, key="waiting")
            durable.emit("answered", {"ok": True}, key="waiting")
        wait_until(lambda: all(run.status in FINISHED for run in durable.runs(limit=1000)), 60, "all runs end")
        wait_until(lambda: all(run.delivered_at for run in durable.runs(limit=1000)), 60, "all results are delivered")
    expected = {run_id: ENDS[run_id] for run_id in ENDS if run_id in before}
    found = {run_id: durable.get(run_id) for run_id in expected}
    assert {run_id: (run.status, run.result) for run_id, run in found.items()} == expected
    for run_id, run in found.items():
        _goes_on_from(before[run_id], run)
    assert durable.retry("failed").status == "suspended", "an old failed run can be retried"
    assert durable.prune("0s") >= len(expected) - 1, "and old runs are forgotten"


def _goes_on_from(before: Run, after: Run) -> None:
    """What was recorded is what it was: no step that had its answer was done again."""
    kept = {step.id: step for step in after.steps}
    for step in before.steps:
        if step.status in ("completed", "failed"):
            now = kept[step.id]
            assert (now.result, now.error, now.finished_at) == (step.result, step.error, step.finished_at)
