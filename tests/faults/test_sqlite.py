"""SQLite: another process holds the write lock for long, the disk is full, the file can't be written to."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError

from celery_durable import DurableTask, step
from celery_durable.core.duration import SECOND
from celery_durable.engine.executor import Finished, Gone
from celery_durable.engine.settings import Settings
from celery_durable.store.records import Fence
from celery_durable.store.store import Store
from celery_durable.worker.runtime import Runtime, standing_in
from tests.alone import alone
from tests.engine.driving import Driver
from tests.store.making import a_step, lease_of, new_run, taken

ROOM = "PRAGMA max_page_count = {}"
FULL, READ_ONLY = ROOM.format(1), "PRAGMA query_only = ON"  # no file is made smaller: there is no room for another page
CURES = {FULL: ROOM.format(2**30), READ_ONLY: "PRAGMA query_only = OFF"}
SAID = {FULL: "database or disk is full", READ_ONLY: "attempt to write a readonly database"}


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Store]:
    opened = Store(sqlite_url)
    opened.migrate()
    opened.engine.dispose()
    event.listen(opened.engine, "connect", _be_quick)
    yield opened
    opened.engine.dispose()


def _be_quick(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA busy_timeout = 50")


class Spoiled:
    """All connections of a store meet with a fault, until it is cured."""

    def __init__(self, store: Store, pragma: str) -> None:
        self.pragma = pragma
        event.listen(store.engine, "before_cursor_execute", self._spoil)

    def _spoil(self, connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
        cursor.execute(self.pragma)

    def cure(self) -> None:
        self.pragma = CURES[self.pragma]


def test_a_write_lock_that_is_held_for_long(store: Store) -> None:
    with store.link() as link:
        claim = taken(store, link)
        holder = sqlite3.connect(str(store.engine.url.database))
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(OperationalError, match="database is locked"):
            store.start(link, new_run("other"))

        def let_go(context: Any) -> None:
            holder.rollback()

        event.listen(store.engine, "handle_error", let_go)
        assert store.record(link, claim.fence, a_step(), lease_of(claim), patience=30)
        assert store.start(link, new_run("other"))


@pytest.mark.parametrize("pragma", CURES)
def test_a_run_goes_on_when_there_is_room_again(store: Store, pragma: str) -> None:
    done: list[str] = []
    spoiled: list[Spoiled] = []

    def work(name: str) -> str:
        done.append(name)
        if name == "b" and not spoiled:
            spoiled.append(Spoiled(store, pragma))
        return "x" * 100_000

    def body() -> int:
        return len(step.run("a", work, "a") + step.run("b", work, "b"))

    driver = Driver(store, body, settings=Settings(lease=SECOND))
    driver.start()
    assert isinstance(driver.one_pass(), Gone)
    spoiled[0].cure()
    with store.link() as link:
        assert store.recover(link, Fence("r1", driver.run()["token"]))
    assert driver.one_pass() == Finished(200_000)
    assert done == ["a", "b", "b"], "what is recorded is kept"


@pytest.mark.parametrize("pragma", CURES)
def test_a_start_that_has_no_room_is_an_error_and_sends_nothing(store: Store, pragma: str) -> None:
    app = alone("full")

    @app.task(base=DurableTask)
    def nothing(text: str) -> None: ...

    spoiled = Spoiled(store, pragma)
    with standing_in(app, Runtime(Settings(), store)):
        with pytest.raises(OperationalError, match=SAID[pragma]) as raised:
            nothing.apply_async(("x" * 100_000,), task_id="r1")
        assert "so nothing was sent" in raised.value.__notes__[0]
        spoiled.cure()
        assert nothing.apply_async(("x" * 100_000,), task_id="r1").id == "r1"
