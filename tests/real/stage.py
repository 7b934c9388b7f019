"""Real workers, as local processes in pytest-celery's classes.

pytest-celery runs its components in containers. Where there is no Docker engine, a container is stood in for
by :class:`Process`, which starts a worker with Python itself; brokers, backends and databases are those that
``tests/services.py`` finds. The rest (clusters, nodes, the set-up) is pytest-celery's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from amqp import NotFound
from celery import Celery
from pytest_celery import (
    CeleryBackendCluster,
    CeleryBrokerCluster,
    CeleryTestBackend,
    CeleryTestBroker,
    CeleryTestSetup,
    CeleryTestWorker,
    CeleryWorkerCluster,
)

from celery_durable import Durable, Run
from celery_durable.core.duration import SECOND
from celery_durable.store.store import Store
from celery_durable.worker.message import send
from celery_durable.worker.runtime import runtime_of
from tests.real.effects import VARIABLE
from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent


class Running:
    """A server that is there already: a broker, a result backend."""

    id = name = "127.0.0.1"
    status = "running"

    def __init__(self, url: str) -> None:
        self.celeryconfig = {"url": url, "host_url": url}

    def ready(self) -> bool:
        return True

    def logs(self) -> str:
        return ""

    def teardown(self) -> None: ...

    reload = teardown


class Process:
    """A worker process, with what pytest-celery asks of a container."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str], *options: str) -> None:
        self.name = self.id = name
        self._log = folder / f"{name}.log"
        self._environment = environment
        self._command = [sys.executable, "-m", "celery", "-A", "tests.real.app", "worker"]
        self._command += ["--hostname", f"{name}@real", "--loglevel", "INFO", *options]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | self._environment,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def status(self) -> str:
        return "running" if self.process is not None and self.process.poll() is None else "exited"

    def ready(self) -> bool:
        def answers() -> bool:
            assert self.status == "running", f"{self.name} ended by itself:\n{self.logs()[-3000:]}"
            return f"{self.name}@real ready" in self.logs()

        return wait_until(answers, 30, f"{self.name} is ready")

    def logs(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """A signal for the worker and, if it is SIGKILL, for its children: a machine that loses its power."""
        number = _number(signal)
        if number == _number("SIGKILL"):
            os.killpg(self.pid, number)
        else:
            os.kill(self.pid, number)

    def stop(self, timeout: float = 20) -> None:
        """Warm shutdown."""
        assert self.process is not None
        self.process.terminate()
        self.process.wait(timeout)

    def teardown(self) -> None:
        if self.process is None:
            return
        if self.status == "running":
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(5)

    def reload(self) -> None: ...


def _number(name: str | int) -> int:
    return int(getattr(signal, name)) if isinstance(name, str) else name


class Worker(CeleryTestWorker):
    """A worker of a stage."""

    container: Process

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.container.pid)

    def stop(self) -> None:
        self.container.stop()


class Stage(CeleryTestSetup):
    """A broker, a backend, a durable database, and the workers that a test starts on them."""

    def __init__(self, folder: Path, broker: str, backend: str, database: str, **config: Any) -> None:
        self.config_of_workers = {
            "broker_url": broker,
            "result_backend": backend,
            "durable_database_url": database,
            **config,
        }
        self._folder = folder
        self._started: list[Worker] = []
        os.environ[VARIABLE] = str(folder / "effects")
        os.environ["REAL_CONFIG"] = json.dumps(self.config_of_workers)
        from tests.real.app import app as real

        real.conf.update(self.config_of_workers)
        real.set_current()
        super().__init__(
            worker_cluster=None,  # started when a test asks for them
            broker_cluster=CeleryBrokerCluster(CeleryTestBroker(Running(broker), real)),
            backend_cluster=CeleryBackendCluster(CeleryTestBackend(Running(backend), real)),
            app=real,
        )
        self.store.migrate()

    @property
    def celery(self) -> Celery:
        return self.app

    @property
    def store(self) -> Store:
        return runtime_of(self.app).store

    def start_workers(
        self, *names: str, pool: str = "prefork", concurrency: int = 2, options: tuple[str, ...] = ()
    ) -> list[Worker]:
        """Start workers, and wait until all of them are ready."""
        environment = {"REAL_CONFIG": json.dumps(self.config_of_workers)}
        arguments = (
            "--pool",
            pool,
            "--concurrency",
            str(concurrency),
            "--without-gossip",
            "--without-mingle",
            *options,
        )
        workers = [Worker(Process(name, self._folder, environment, *arguments), self.app) for name in names]
        self._started += workers
        for worker in workers:
            worker.container.start()
        self._worker_cluster = CeleryWorkerCluster(*workers)
        assert self.ready()
        return workers

    def run(self, run_id: Any) -> Run:
        return Durable(self.app).get(getattr(run_id, "id", run_id))

    def wait_for(self, run_id: Any, *statuses: str, timeout: float = 20) -> Run:
        """Wait until a run has one of the statuses."""
        run_id = getattr(run_id, "id", run_id)
        wait_until(
            lambda: self.run(run_id).status in statuses,
            timeout,
            f"{run_id} is {' or '.join(statuses)}: {self.run(run_id)}",
        )
        return self.run(run_id)

    def count(self, status: str) -> int:
        """How many runs have this status."""
        run = self.store.tables.run
        statement = run.select().where(run.c.status == status).with_only_columns(run.c.id)
        with self.store.link() as link:
            return len(link.run(lambda connection: connection.execute(statement).all()))

    def send_copies(self, run_id: Any, count: int, delay: float) -> None:
        """The run's message, some more times."""
        run_id = getattr(run_id, "id", run_id)
        statement = self.store.statements.inputs
        with self.store.link() as link:
            given = link.run(lambda connection: connection.execute(statement, {"ids": [run_id]}).one())
        for _ in range(count):
            send(
                self.app,
                self.run(run_id).task,
                run_id,
                arguments=given.arguments,
                kept=given.message,
                passes=0,
                delay=int(delay * SECOND),
            )

    def wipe_broker(self) -> None:
        """The broker forgets everything."""
        url = self.config_of_workers["broker_url"]
        with self.app.connection_for_write() as connection:
            if url.startswith("redis"):
                connection.default_channel.client.flushdb()
            else:
                with contextlib.suppress(NotFound):  # nothing was sent yet
                    connection.default_channel.queue_purge(self.app.conf.task_default_queue)

    def logs(self) -> str:
        return "\n".join(worker.logs() for worker in self._started)

    def teardown(self) -> None:
        for worker in self._started:
            worker.container.teardown()
        self.store.engine.dispose()
        self.app._after_fork()  # drops the pools of this broker: the next stage has another
