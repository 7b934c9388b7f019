"""The processes that stand beside each other: a worker, the beats of two packages, and Flower."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import text

from celery_durable import Durable, RunNotFound
from celery_durable.worker.runtime import runtime_of
from tests.services import Services
from tests.waiting import wait_until
from tests.web.processes import Process, free_port

LIMIT = 40.0


class Beside:
    """A project's processes, and an app of the tests' own that reads what they have left."""

    flower: Flower

    def __init__(self, folder: Path, database: str, broker: str) -> None:
        self._folder = folder
        self._environment = {
            "BESIDE_DATABASE": database,
            "BESIDE_REDIS": broker,
            "DJANGO_SETTINGS_MODULE": "tests.beside.settings",
            "FLOWER_UNAUTHENTICATED_API": "true",
        }
        self._processes: dict[str, Process] = {}
        self.app = Celery("outside", set_as_current=False)
        self.app.conf.update(durable_database_url=database, broker_url=broker, redbeat_redis_url=broker)
        self.durable = Durable(self.app)

    def run(self, name: str, *arguments: str) -> Process:
        started = self._processes[name] = Process(name, self._folder, self._environment, *arguments)
        return started

    def celery(self, name: str, *arguments: str) -> Process:
        return self.run(name, "celery", "-A", "tests.beside.app", *arguments)

    def log(self, name: str) -> str:
        return self._processes[name].log()

    def close(self) -> None:
        running = [process for process in self._processes.values() if not process.ended]
        for process in running:
            process.process.terminate()
        for process in running:
            process.stop()
        runtime_of(self.app).store.engine.dispose()
        self.app.close()

    def rows(self, statement: str, **values: Any) -> list[Any]:
        with runtime_of(self.app).store.engine.connect() as connection:
            return list(connection.execute(text(statement), values))

    def result(self, task_id: str) -> dict[str, Any]:
        """What django-celery-results has of a task."""
        statement = (
            "SELECT status, result, task_name, traceback FROM django_celery_results_taskresult WHERE task_id = :id"
        )
        rows = self.rows(statement, id=task_id)
        assert len(rows) <= 1
        return dict(rows[0]._mapping) if rows else {}

    def wait_for_result(self, task_id: str, status: str) -> None:
        wait_until(lambda: self.result(task_id).get("status") == status, LIMIT, f"the result of {task_id} is {status}")

    def start_order(self, run_id: str) -> None:
        """Start a run, and wait until it waits for its event."""
        self.app.send_task("beside.order", (run_id,), task_id=run_id)
        self.wait_for_order(run_id)

    def wait_for_order(self, run_id: str) -> None:
        def waits() -> bool:
            with contextlib.suppress(RunNotFound):  # until a worker has got its message
                found = self.durable.get(run_id)
                return found.status == "suspended" and "order.paid" in str(found.waiting_on)
            return False

        wait_until(waits, LIMIT, f"{run_id} waits for its event")


class Flower:
    """Flower, by its API."""

    def __init__(self, beside: Beside) -> None:
        self._port = free_port()
        self._url = f"http://127.0.0.1:{self._port}/api/"
        self._process = beside.celery("flower", "flower", f"--port={self._port}", "--address=127.0.0.1")

    def wait(self) -> None:
        self._process.wait_for_port(self._port)
        wait_until(lambda: self.get("tasks"), LIMIT, "Flower hears of tasks")

    def get(self, path: str) -> Any:
        return self._answer(urllib.request.Request(self._url + path))

    def post(self, path: str, **body: Any) -> Any:
        return self._answer(urllib.request.Request(self._url + path, json.dumps(body).encode(), method="POST"))

    def task(self, task_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get("tasks").get(task_id, {})
        return found

    def wait_for(self, task_id: str, state: str) -> None:
        wait_until(lambda: self.task(task_id).get("state") == state, LIMIT, f"Flower shows {task_id} as {state}")

    def _answer(self, request: urllib.request.Request) -> Any:
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.loads(response.read())


@pytest.fixture(scope="module")
def beside(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    """The project with its tables, a worker, both beats, and Flower, which take their time to start all at once."""
    services.redis.flush()
    with services.postgresql.fresh() as database:
        made = Beside(tmp_path_factory.mktemp("beside"), database, services.redis.url)
        try:
            migrating = made.run("migrate", "django", "migrate", "--verbosity", "0")
            assert migrating.process.wait(LIMIT) == 0, migrating.log()
            quiet = ("--concurrency", "2", "--without-gossip", "--without-mingle")
            worker = made.celery("worker", "worker", "--events", "--loglevel", "INFO", *quiet)
            made.celery("django-beat", "beat", "-S", "django", "--loglevel", "INFO", "--pidfile=")
            made.celery("redbeat", "beat", "-S", "redbeat.RedBeatScheduler", "--loglevel", "INFO", "--pidfile=")
            made.flower = Flower(made)
            worker.wait_for_line(r"\bready\.")
            yield made
        finally:
            made.close()


@pytest.fixture(scope="module")
def flower(beside: Beside) -> Flower:
    beside.flower.wait()
    return beside.flower
