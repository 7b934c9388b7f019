"""An app on an in-memory broker, which keeps what is sent for a test to look at: nothing consumes it."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from celery import Celery

from celery_durable import Durable
from celery_durable.store.store import Store
from celery_durable.worker.runtime import runtime_of
from celery_durable.worker.sweeper import Sweeper


class Desk:
    """An app, its store, and the messages that wait in its broker."""

    def __init__(self, app: Celery) -> None:
        self.app = app

    @property
    def durable(self) -> Durable:
        return Durable(self.app)

    @property
    def store(self) -> Store:
        return runtime_of(self.app).store

    def row(self, run_id: str) -> Any:
        with self.store.link() as link:
            found = self.store.get(link, run_id)
        return None if found is None else found[0]

    def tick(self) -> int:
        """What a worker's sweeper does, once."""
        sweeper = Sweeper(self.app)
        try:
            with self.store.link() as link:
                return sweeper.tick(link)
        finally:
            sweeper.stop()  # the next one leads at once

    def messages(self, queue: str | None = None) -> list[Any]:
        """The messages sent since the last call."""
        taken = []
        with self.app.connection_for_read() as connection:
            channel = connection.default_channel
            channel.queue_declare(queue or self.app.conf.task_default_queue)
            while (message := channel.basic_get(queue or self.app.conf.task_default_queue, no_ack=True)) is not None:
                taken.append(message)
        return taken


@pytest.fixture
def app(sqlite_url: str) -> Any:
    made = Celery("desk", broker="memory://", backend="cache+memory://", set_as_current=False)
    made.conf.update(
        durable_database_url=sqlite_url,
        task_default_queue=f"desk-{uuid.uuid4().hex[:8]}",
        task_publish_retry=False,
    )
    yield made
    made.close()


@pytest.fixture
def desk(app: Celery) -> Desk:
    made = Desk(app)
    made.messages()  # declares the queue: two threads that do so at once lose a message of the in-memory broker
    return made


@pytest.fixture
def closed_port() -> str:
    """A broker URL where nobody listens."""
    return "amqp://guest:guest@127.0.0.1:1//"


__all__ = ["Desk"]
