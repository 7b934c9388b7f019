"""An app that is monitored: its workers, the processes that start its runs, and what the monitors were told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from celery import Celery

from celery_durable import Durable, Run
from celery_durable.worker.runtime import runtime_of
from tests.waiting import wait_until
from tests.web.processes import ROOT, Process

LIMIT = 60.0


class Monitored:
    """The processes of one app with the same monitors."""

    def __init__(
        self, folder: Path, redis: str, monitors: str, environment: dict[str, str] | None = None, **config: Any
    ) -> None:
        self._folder = folder
        self._out = folder / "told.jsonl"
        self._out.touch()
        self._processes: list[Process] = []
        config = {
            "broker_url": redis,
            "result_backend": redis,
            "broker_connection_retry_on_startup": True,
            "worker_enable_remote_control": False,
            "durable_database_url": f"sqlite:///{folder / 'durable.db'}",
            "durable_sweep_interval": "200ms",
            **config,
        }
        self.environment = {
            "MONITORS": monitors,
            "MONITORED_CONFIG": json.dumps(config),
            "MONITORED_OUT": str(self._out),
            **(environment or {}),
        }
        self.app = Celery("outside", set_as_current=False)
        self.app.conf.update(config)
        self.durable = Durable(self.app)
        self.durable.migrate()

    def work(self, pool: str = "prefork", concurrency: int = 2) -> Process:
        """Start a worker."""
        options = ["--loglevel", "INFO", "--pool", pool, "--concurrency", str(concurrency)]
        options += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        worker = Process(
            f"worker-{len(self._processes)}", self._folder, self.environment,
            "celery", "-A", "tests.contrib.monitored", "worker", *options,
        )  # fmt: skip
        self._processes.append(worker)
        worker.wait_for_line(r"\bready\.")
        return worker

    def python(self, *lines: str) -> list[str]:
        """Run this in a process that has the same monitors; what it prints."""
        code = "\n".join(("from tests.contrib.monitored import *", *lines))
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | self.environment | {"starter": "yes"},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.split()

    def wait_for(self, run_id: str, *statuses: str) -> Run:
        def reached() -> Run | None:
            run = self.durable.get(run_id)
            return run if run.status in statuses else None

        return wait_until(reached, LIMIT, f"{run_id} is {' or '.join(statuses)}")

    def wait_until_it_waits(self, run_id: str, what: str) -> None:
        wait_until(lambda: what in (self.durable.get(run_id).waiting_on or ""), LIMIT, f"{run_id} waits for {what}")

    def told(self) -> list[dict[str, Any]]:
        """What the monitors were told so far, by all processes."""
        return [json.loads(line) for line in self._out.read_text().splitlines()]

    def close(self) -> None:
        for process in reversed(self._processes):
            process.stop()
        runtime_of(self.app).store.engine.dispose()
        self.app.close()
