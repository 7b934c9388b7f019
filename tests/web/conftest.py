"""A site under test: its servers and its worker, and a look into its database from outside."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from sqlalchemy import text

from celery_durable import Durable, EventRecord, Run, RunNotFound
from celery_durable.worker.runtime import runtime_of
from tests.services import Services
from tests.waiting import wait_until
from tests.web.processes import Process, Server
from tests.web.work import UNSERVED

pytest.register_assert_rewrite("tests.web.webhooks")

RUN_LIMIT = 30.0


class Site:
    """A site's processes, and an app of the tests' own, by which they read what is in the durable database."""

    def __init__(self, folder: Path, environment: dict[str, str], broker: str) -> None:
        self._folder = folder
        self._broker = broker
        self._environment = environment
        self._processes: list[Process] = []
        self.url = environment["WEB_DATABASE"]
        self._app = Celery("outside", set_as_current=False)
        self._app.conf.update(durable_database_url=self.url, broker_url=broker, result_backend=broker)
        self.durable.migrate()

    @property
    def durable(self) -> Durable:
        return Durable(self._app)

    def close(self) -> None:
        for process in reversed(self._processes):
            process.stop()
        runtime_of(self._app).store.engine.dispose()
        self._app.close()

    # ------------------------------------------------------------- its processes

    def serve(self, name: str, *arguments: str, **environment: str) -> Server:
        """Start a web server; ``{port}`` stands for its port."""
        server = Server(name, self._folder, self._environment | environment, *arguments)
        self._processes.append(server.process)
        return server

    def work(self, app: str) -> Process:
        """Start a worker."""
        options = ("--loglevel", "INFO", "--concurrency", "2", "--without-gossip", "--without-mingle")
        worker = Process("worker", self._folder, self._environment, "celery", "-A", app, "worker", *options)
        self._processes.append(worker)
        worker.wait_for_line(r"\bready\.")
        return worker

    # ------------------------------------------------------------ what came of it

    def start(self, task: str, *args: Any) -> str:
        """Start a run by name, as any process does."""
        return str(self._app.send_task(task, args).id)

    def waiting(self, task: str, *args: Any) -> str:
        """Start a run, and wait until it waits for its event."""
        run = self.start(task, *args)
        self.wait_for(run, "suspended")
        return run

    def wait_for(self, run: str, status: str = "completed") -> Run:
        def reached() -> Run | None:
            with contextlib.suppress(RunNotFound):
                found = self.durable.get(run)
                assert found.status in (status, "pending", "running", "suspended"), found
                return found if found.status == status else None
            return None

        return wait_until(reached, RUN_LIMIT, f"run {run} is {status}")

    def has_run(self, run: str) -> bool:
        return self._count("durable_run", "id", run) == 1

    def unserved(self) -> list[str]:
        """The ids of the tasks whose messages were sent to the queue that nobody serves."""
        with redis.Redis.from_url(self._broker) as client:
            messages: Any = client.lrange(UNSERVED, 0, -1)
        return [json.loads(message)["headers"]["id"] for message in messages]

    def events(self, key: str) -> list[EventRecord]:
        return list(self.durable.events(key=key))

    def names(self, key: str) -> list[str]:
        return sorted(event.name for event in self.events(key))

    def things(self, name: str) -> int:
        """The rows of that name in the site's own table."""
        return self._count("thing", "name", name)

    def other_things(self, name: str) -> int:
        """The same in the other database."""
        with contextlib.closing(sqlite3.connect(self._environment["WEB_OTHER_DATABASE"])) as connection:
            return int(connection.execute("SELECT count(*) FROM thing WHERE name = ?", (name,)).fetchone()[0])

    def _count(self, table: str, column: str, value: str) -> int:
        with runtime_of(self._app).store.engine.connect() as connection:
            statement = text(f"SELECT count(*) FROM {table} WHERE {column} = :value")
            return int(connection.execute(statement, {"value": value}).scalar_one())

    def make_tables_of_things(self) -> None:
        create = "CREATE TABLE thing (id {} PRIMARY KEY, name VARCHAR(100) NOT NULL)"
        with runtime_of(self._app).store.engine.connect() as connection:
            connection.execute(text(create.format("SERIAL")))
        with contextlib.closing(sqlite3.connect(self._environment["WEB_OTHER_DATABASE"])) as connection:
            connection.execute(create.format("INTEGER"))


MakeSite = Callable[..., contextlib.AbstractContextManager[Site]]


@pytest.fixture(scope="module")
def make_site(services: Services, tmp_path_factory: pytest.TempPathFactory) -> MakeSite:
    """Make a site with databases of its own."""

    @contextlib.contextmanager
    def make(**environment: str) -> Iterator[Site]:
        services.redis.flush()
        folder = tmp_path_factory.mktemp("site")
        with services.postgresql.fresh() as url:
            given = {"WEB_DATABASE": url, "WEB_REDIS": services.redis.url, "WEB_OTHER_DATABASE": f"{folder}/other.db"}
            site = Site(folder, given | environment, services.redis.url)
            try:
                site.make_tables_of_things()
                yield site
            finally:
                site.close()

    return make


@pytest.fixture
def name() -> str:
    """A name that no other test has: of a user, a thing, an event's key."""
    return uuid.uuid4().hex[:12]
