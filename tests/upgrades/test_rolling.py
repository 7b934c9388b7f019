"""A rolling upgrade: a worker of the version before and one of today's code serve one queue, on the migrated tables."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_durable import Durable
from celery_durable.model import FINISHED
from celery_durable.store.store import Store
from tests.services import Services
from tests.waiting import wait_until

from .old import made_at
from .work import make_app

ROOT = Path(__file__).parent.parent.parent
LAST = "0003"
"""The schema of the package that landed before the newest change of the schema."""
ORDERS = 8


class Fleet:
    def __init__(self, folder: Path, broker: str, database: str) -> None:
        self.folder, self.broker, self.database = folder, broker, database
        self.queue = f"upgrades-{uuid.uuid4().hex[:8]}"
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, package: str | None = None) -> subprocess.Popen[bytes]:
        """A worker, of an old package or of the code here."""
        path = str(ROOT)
        if package is not None:
            old = self.folder / package
            zipfile.ZipFile(ROOT / f"tests/upgrades/packages/{package}.zip").extractall(old)
            path = f"{old}{os.pathsep}{path}"
        command = [sys.executable, "-m", "tests.upgrades.serving", self.broker, self.broker, self.database, name]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, self.queue], stdout=log, stderr=log, cwd=self.folder, env=os.environ | {"PYTHONPATH": path}
            )
        self.processes.append(process)
        wait_until(lambda: "ready: " in self.log(name) or process.poll() is not None, 60, f"{name} is ready")
        assert process.poll() is None, self.log(name)[-2000:]
        return process

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def end(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
            process.wait()


@pytest.fixture
def fleet(tmp_path: Path, services: Services, redis_url: str, postgresql_url: str) -> Iterator[Fleet]:
    made = Fleet(tmp_path, redis_url, postgresql_url)
    yield made
    made.end()


def test_workers_of_two_versions_hand_their_runs_to_each_other(fleet: Fleet) -> None:
    store = Store(fleet.database)
    made_at(store, LAST)
    app = make_app(fleet.database, broker_url=fleet.broker, result_backend=fleet.broker, task_default_queue=fleet.queue)
    fleet.start("old", LAST)
    assert f"ready: {fleet.folder / LAST / 'celery_durable'}" in fleet.log("old")

    assert store.migrate() is True
    fleet.start("new")
    assert f"ready: {ROOT / 'celery_durable'}" in fleet.log("new")
    durable = Durable(app)
    expected = {}
    for number in range(ORDERS):
        for name, result in (
            ("sleeps", [f"SLEEPS-{number}", "DONE", True]),
            ("tries", f"tries-{number}: no"),
            ("waits", [f"WAITS-{number}", {"ok": True}]),
            ("calls", [[f"CALLS-{number}", "DONE", True], 3]),
        ):
            run_id = f"{name}-{number}"
            app.tasks[f"upgrades.{name}"].apply_async((run_id,), task_id=run_id)
            expected[run_id] = result
    for number in range(ORDERS):
        durable.emit("answered", {"ok": number % 2 == 0}, key=f"waits-{number}")
        durable.emit("answered", {"ok": True}, key=f"waits-{number}")
    wait_until(lambda: all(run.status in FINISHED for run in durable.runs(limit=1000)), 120, "all runs end")
    found = {run_id: durable.get(run_id) for run_id in expected}
    assert {run_id: run.result for run_id, run in found.items()} == expected
    results = {run_id: app.AsyncResult(run_id).get(timeout=30) for run_id in expected}
    assert results == expected
    passes = {name: fleet.log(name).count("] received") for name in ("old", "new")}
    assert all(passes.values()), f"one worker did all: {passes}"
    for name in passes:
        assert "ERROR" not in fleet.log(name), fleet.log(name)[-3000:]
    store.engine.dispose()
