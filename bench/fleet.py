"""A fleet of worker processes, on servers of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import func, select

from bench.load_app import DROPPED, VARIABLE, app
from bench.private import DATABASES, redis
from bench.watching import DatabaseWatch
from bench.workers import configure, until
from celery_durable.store.store import Store
from celery_durable.worker.runtime import runtime_of

__all__ = ["Fleet", "fleet"]

QUEUE = "bench"
PATIENCE = 300.0
"""Seconds for workers to start, on a machine that has other work."""


@dataclass
class Fleet:
    """A broker, a database, and the workers that were started on them."""

    database: str
    config: dict[str, Any]
    watch: DatabaseWatch
    folder: Path
    _workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return runtime_of(app).store

    @contextmanager
    def workers(self, count: int, processes: int, app: str = "bench.load_app") -> Iterator[None]:
        """So many workers of so many processes each, ready for work; ended afterwards."""
        with ExitStack() as ending:
            for number in range(count):
                ending.enter_context(self._worker(f"w{number}", processes, app))
            until(lambda: len(self.processes()) >= count * (1 + processes), PATIENCE)
            try:
                yield
            finally:
                for process in self._workers:
                    process.terminate()
        self._workers.clear()

    @contextmanager
    def _worker(self, name: str, processes: int, app: str) -> Iterator[None]:
        log = self.folder / f"{name}.log"
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-l", "WARNING", "-n", f"{name}@b"]
        command += ["-c", str(processes), "--without-gossip", "--without-mingle"]
        environment = os.environ | {VARIABLE: json.dumps(self.config), DROPPED: str(self.folder / "dropped")}
        with log.open("ab") as out:
            process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
        self._workers.append(process)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:  # it has a long task yet
                os.killpg(process.pid, signal.SIGKILL)

    def processes(self) -> list[psutil.Process]:
        """The main process and the children of each worker."""
        mains = [psutil.Process(worker.pid) for worker in self._workers]
        return [process for main in mains for process in (main, *main.children())]

    def queued(self) -> int:
        """Messages that wait in the broker."""
        with app.connection_for_read() as connection:
            return int(connection.default_channel.client.llen(QUEUE))

    def dropped(self) -> int:
        """Messages that came to a worker and had nothing to do: duplicates."""
        counted = self.folder / "dropped"
        return counted.stat().st_size if counted.exists() else 0

    def logs(self) -> str:
        return "".join(log.read_text(errors="replace") for log in sorted(self.folder.glob("*.log")))

    def count(self, status: str) -> int:
        """How many runs have this status."""
        run = self.store.tables.run
        with self.store.engine.connect() as connection:
            found = connection.execute(select(func.count()).select_from(run).where(run.c.status == status))
            return int(found.scalar_one())

    def empty(self) -> None:
        """Forget all runs, events and messages."""
        for table in reversed(self.store.tables.metadata.sorted_tables):
            if table is not self.store.tables.lease:
                self._truncate(table.name)
        with app.connection_for_write() as connection:
            connection.default_channel.client.flushdb()
        (self.folder / "dropped").unlink(missing_ok=True)

    def _truncate(self, table: str) -> None:
        with self.store.engine.connect() as connection:
            connection.exec_driver_sql(f"TRUNCATE TABLE {table}")


@contextmanager
def fleet(database: str, **settings: Any) -> Iterator[Fleet]:
    """A fleet without workers yet, on a private database server and a private Redis."""
    with ExitStack() as servers:
        folder = Path(servers.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        url, log = servers.enter_context(DATABASES[database]())
        broker = servers.enter_context(redis())
        config = {
            "broker_url": broker, "durable_database_url": url, "task_default_queue": QUEUE, **settings,
        }  # fmt: skip
        configure(app, config)
        watch = servers.enter_context(DatabaseWatch(database, url, log))
        made = Fleet(database, config, watch, folder)
        made.store.migrate()
        try:
            yield made
        finally:
            made.store.engine.dispose()
            app._after_fork()  # drops the connections to this broker
