"""A statement that gets no answer: the server hangs, packets vanish, or somebody holds a lock for long. Nobody waits
for ever: the connection is given up, what it waited for is cancelled on the server, and the operation is done again or
fails with an error that says so.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from celery_durable import Durable, step
from celery_durable.engine.executor import Finished
from celery_durable.store import dialects
from celery_durable.store.store import Store
from tests.alone import alone
from tests.engine.driving import Driver
from tests.waiting import wait_until

from .conftest import Faulty
from .moments import Moments
from .operations_outside import OPERATIONS
from .rivals import holding
from .scenes import Scene
from .test_contended import noting, performed, touch, undisturbed
from .wire import SILENT, Wire

NAMED = {operation.name: operation for operation in OPERATIONS}


@pytest.fixture(scope="module")
def hurried(faulty: Faulty) -> Iterator[Store]:
    """A store behind the wire that waits for a moment only."""
    opened = Store(faulty.wire.url, answer_within=0.4)
    yield opened
    opened.engine.dispose()


@pytest.mark.parametrize(
    "name", ["start", "claim", "claim with a share", "record a step", "suspend: sleep, wait and call", "emit", "prune"]
)
def test_an_answer_that_does_not_come(faulty: Faulty, hurried: Store, name: str) -> None:
    """The connection stays open, and nothing comes out of it any more."""

    def hang(connection: Connection) -> None:
        faulty.wire.lose(connection, SILENT)

    with Moments(hurried.engine, 1, hang) as moments, noting(hurried) as noted:
        found = performed(faulty, NAMED[name], hurried, patient)
    assert moments.was_hit
    assert noted, "it was given up"
    assert found == undisturbed(faulty, NAMED[name])


@contextmanager
def patient(scene: Scene) -> Iterator[None]:
    """As a pass is: a slow machine may need more than a moment for more than one try."""
    scene.link.patience = 30.0
    yield


@pytest.mark.parametrize("name", ["record a step", "cancel"])
def test_a_lock_that_somebody_holds_for_long(faulty: Faulty, hurried: Store, name: str) -> None:
    """It is not waited for on the server by those that have given it up."""
    with noting(hurried) as noted:

        def against(scene: Scene) -> Any:
            scene.link.patience = 30.0
            return holding(faulty, touch(scene), until=lambda: len(noted) >= 3)

        found = performed(faulty, NAMED[name], hurried, against)
    assert found == undisturbed(faulty, NAMED[name])
    with faulty.direct.engine.connect() as connection:
        wait_until(lambda: not connection.execute(text(_AT_WORK[faulty.wire.kind])).scalar(), 10, "all are cancelled")


_AT_WORK = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity a JOIN pg_locks l USING (pid) JOIN pg_class c ON "
    "c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = current_schema() "
    "AND a.pid <> pg_backend_pid() AND a.state = 'active'",
    "mysql": "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID() "
    "AND command = 'Query'",
}


def test_a_caller_is_told_in_bounded_time_that_nobody_answers(faulty: Faulty) -> None:
    """A web request, say: it starts a run while somebody holds the table."""
    app = _app(faulty)
    scene = Scene(faulty.direct)
    with faulty.direct.link() as scene.link:
        scene.started()
    released = threading.Event()
    with holding(faulty, touch(scene), until=released.is_set):
        try:
            with pytest.raises(DBAPIError) as raised:
                Durable(app).cancel(scene.name + "r")
        finally:
            released.set()
    assert any("did not answer within 1 s (durable_database_timeout)" in note for note in raised.value.__notes__)
    assert Durable(app).cancel(scene.name + "r").status == "cancelled"


def _app(faulty: Faulty) -> Celery:
    app = alone("hanging")
    app.conf.update(durable_database_url=faulty.wire.url, durable_database_timeout=1)
    return app


def test_a_step_that_is_recorded_through_a_hanging_connection(faulty: Faulty, hurried: Store) -> None:
    calls: list[str] = []

    def called(name: str) -> str:
        calls.append(name)
        return name

    def body() -> list[str]:
        return [step.run(name, called, name) for name in ("a", "b")]

    driver = Driver(hurried, body)
    driver.start("hanging-r")
    with Moments(hurried.engine, 2, lambda connection: faulty.wire.lose(connection, SILENT)) as moments:
        assert driver.one_pass("hanging-r") == Finished(["a", "b"])
    assert moments.was_hit
    assert calls == ["a", "b"], "nothing is done again"


def test_what_takes_long_because_there_is_much_of_it_is_waited_for(faulty: Faulty) -> None:
    """Forgetting runs with a great many rows is not a server that hangs."""
    slow = Store(faulty.wire.url, answer_within=0.4)
    sleep = {"postgresql": "SELECT pg_sleep(1)", "mysql": "SELECT SLEEP(1)"}[faulty.wire.kind]

    def take_long(connection: Connection) -> str:
        with link.lingering():
            return str(connection.execute(text(sleep)).scalar())

    with slow.link() as link, noting(slow) as noted:
        link.run(take_long)
        assert not noted
        with pytest.raises(DBAPIError):
            link.run(lambda connection: connection.execute(text(sleep)))
    slow.engine.dispose()


def test_a_server_that_takes_a_connection_and_says_nothing(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the driver's bound for connecting nor a watch over a socket would notice all of it."""
    monkeypatch.setattr(dialects, "_CONNECT_WITHIN", 2)
    frozen = Wire(faulty.url)
    frozen.is_frozen = True
    store = Store(frozen.url)
    with pytest.raises(DBAPIError), store.link() as link:
        store.now(link)
    frozen.is_frozen = False
    with store.link() as link:
        assert store.now(link), "the bound is for connecting alone"
        sleep = {"postgresql": "SELECT pg_sleep(3)", "mysql": "SELECT SLEEP(3)"}[faulty.wire.kind]
        link.run(lambda connection: connection.execute(text(sleep)))
    store.engine.dispose()
    frozen.cut()
