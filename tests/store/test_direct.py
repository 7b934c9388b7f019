"""What goes to PostgreSQL beneath psycopg's cursor comes back as it would by way of it: values, counts, errors."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
from sqlalchemy import (
    ClauseElement,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    bindparam,
    event,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.exc import DataError, IntegrityError

from celery_durable.store.direct import directly
from celery_durable.store.prepared import Prepared
from celery_durable.store.store import Store
from tests.waiting import wait_until

from .making import a_step, lease_of, prepared_on, step_rows, taken


def store_of(url: str) -> Store:
    opened = Store(url)
    opened.migrate()
    opened.engine.dispose()
    return opened


@pytest.fixture
def database_url(postgresql_url: str) -> str:
    """The other databases have no such way."""
    return postgresql_url


def noting(store: Store) -> Prepared:
    """A statement with texts, a number and nothing in it, that gives back what it has written."""
    audit = store.tables.audit
    written = insert(audit).values(action="a", at=bindparam("at"), actor=bindparam("actor"), details=bindparam("more"))
    return Prepared(written.returning(audit.c.at, audit.c.actor, audit.c.details), store.engine)


@pytest.mark.parametrize(
    "values",
    [
        {"at": 0, "actor": "", "more": None},
        {"at": -(2**63), "actor": 'it\'s \\ 100 % "so" $1 :at %(at)s', "more": '{"a":[1]}'},
        {"at": 2**63 - 1, "actor": "ünï ☃ 🐘", "more": "x" * 100_000},
    ],
    ids=["least", "signs", "most"],
)
def test_values_come_back_as_they_were(store: Store, values: dict[str, Any]) -> None:
    with store.link() as link:

        def write(connection: Connection) -> Any:
            found = noting(store).execute(connection, values).rows
            assert prepared_on(connection) == 1
            return found

        assert link.run(write) == [tuple(values.values())]


def test_a_value_whose_text_does_not_say_what_it_is_goes_by_the_cursor(store: Store) -> None:
    asked = Prepared(select(literal(True).label("yes"), literal(False).label("no")), store.engine)
    with store.link() as link:
        assert link.run(lambda connection: asked.execute(connection, {}).rows) == [(True, False)]
        assert link.run(prepared_on) == 0


def test_a_text_that_postgresql_cant_hold_is_refused_as_ever(store: Store) -> None:
    """A zero would end what is sent, and the rest of it would be lost without a word."""
    lease = store.tables.lease
    written = Prepared(insert(lease).values(name=bindparam("name"), holder="h", until=1), store.engine)
    with store.link() as link:
        with pytest.raises(DataError, match="NUL"):
            link.run(lambda connection: written.execute(connection, {"name": "cut\0off"}))
        assert link.run(lambda connection: connection.execute(select(func.count()).select_from(lease)).scalar()) == 0


def test_a_number_that_is_too_large_is_refused(store: Store) -> None:
    with store.link() as link, pytest.raises(DataError, match="out of range"):
        link.run(lambda connection: noting(store).execute(connection, {"at": 2**63, "actor": "", "more": None}))


def test_ours_say_of_each_value_what_it_is(store: Store) -> None:
    """Else they would go by the cursor, and nobody would notice."""
    ours = list(vars(store.statements).values())
    ours += [one for several in ours if isinstance(several, dict) for one in several.values()]
    texts = [str(each.compile(dialect=store.engine.dialect)) for each in ours if isinstance(each, ClauseElement)]
    assert len(texts) > 150
    assert [text for text in texts if directly("psycopg", text) is None] == []


def test_another_kind_of_value_goes_by_the_cursor(store: Store) -> None:
    asked = Prepared(select(bindparam("number", type_=store.tables.audit.c.at.type) + 0), store.engine)
    with store.link() as link:
        assert link.run(lambda connection: asked.execute(connection, {"number": 2.0}).scalar()) == 2
        assert link.run(prepared_on) == 0


def test_how_many_rows_were_changed(store: Store) -> None:
    audit = store.tables.audit
    changing = Prepared(update(audit).where(audit.c.at < bindparam("most")).values(actor="eve"), store.engine)
    with store.link() as link:
        for at in range(3):
            values = {"at": at, "actor": "a", "more": ""}
            link.run(partial(noting(store).execute, values=values))
        assert link.run(lambda connection: changing.execute(connection, {"most": 2}).rowcount) == 2
        assert link.run(lambda connection: changing.execute(connection, {"most": 0}).rowcount) == 0


class TestWhetherItDoes:
    """It is for a plain connection of psycopg's, and for what is executed often."""

    def test_after_as_many_times_as_the_url_says(self, postgresql_url: str) -> None:
        store = store_of(postgresql_url.replace("prepare_threshold=0", "prepare_threshold=2"))
        with store.link() as link:
            seen = []
            for _ in range(4):
                store.now(link)
                seen.append(link.run(prepared_on))
        assert seen == [0, 0, 1, 1]
        store.engine.dispose()

    def test_never_where_nothing_may_be_prepared(self, postgresql_url: str) -> None:
        store = store_of(postgresql_url.replace("prepare_threshold=0", "prepare_threshold=none"))
        with store.link() as link:
            assert [store.now(link) > 0 for _ in range(9)] == [True] * 9
            assert link.run(prepared_on) == 0
        store.engine.dispose()

    def test_not_for_a_cursor_of_somebody_elses(self, postgresql_url: str) -> None:
        """As those have that trace what a driver executes."""
        executed = []

        class Tracing(psycopg.Cursor[Any]):
            def execute(self, query: Any, *rest: Any, **more: Any) -> Any:
                executed.append(query)
                return super().execute(query, *rest, **more)

        store = store_of(postgresql_url)

        @event.listens_for(store.engine, "connect")
        def trace(connection: Any, _record: Any) -> None:
            connection.cursor_factory = Tracing

        with store.link() as link:
            assert store.now(link) > 0
            assert link.run(prepared_on) == 0
        assert any("clock_timestamp" in text for text in executed)
        store.engine.dispose()

    def test_not_where_the_text_has_another_encoding(self, postgresql_url: str) -> None:
        store = store_of(postgresql_url.replace("options=", "options=-cclient_encoding%3Dlatin1 "))
        with store.link() as link:
            values = {"at": 1, "actor": "ünï", "more": None}
            assert link.run(lambda connection: noting(store).execute(connection, values).rows) == [(1, "ünï", None)]
            assert link.run(prepared_on) == 0
        store.engine.dispose()

    def test_not_for_more_than_so_many(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("celery_durable.store.direct._MOST_PREPARED", 3)
        with store.link() as link:
            for number in range(5):
                asked = Prepared(select(literal(1).label(f"number_{number}")), store.engine)
                assert link.run(partial(asked.execute, values={})).scalar() == 1
            assert link.run(prepared_on) == 3


def fail_late(engine: Engine) -> None:
    """A table that finds out at a commit whether its rows can be."""
    with engine.connect() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE late (number integer, CONSTRAINT once UNIQUE (number) DEFERRABLE INITIALLY DEFERRED)"
        )
        connection.exec_driver_sql("INSERT INTO late VALUES (1)")


class TestErrors:
    def test_of_a_commit_that_comes_behind_the_rows(self, store: Store) -> None:
        """The server has given the rows by then, and what was written is not there all the same."""
        fail_late(store.engine)
        late = Table("late", MetaData(), Column("number", Integer))
        written = Prepared(insert(late).values(number=bindparam("of")).returning(late.c.number), store.engine)
        with store.link() as link:
            assert link.run(lambda connection: written.execute(connection, {"of": 2}).scalar()) == 2
            assert link.run(prepared_on) == 1
            with pytest.raises(IntegrityError, match="once"):
                link.run(lambda connection: written.execute(connection, {"of": 1}))

    def test_in_a_transaction_which_is_taken_back(self, store: Store) -> None:
        with store.link() as link:
            claim = taken(store, link)
            assert store.record(link, claim.fence, a_step("kept"), lease_of(claim))

            def fail(connection: Connection) -> None:
                with link.atomic(connection):
                    connection.exec_driver_sql("UPDATE durable_step SET id = 'lost'")
                    raise ValueError("on purpose")

            with pytest.raises(ValueError, match="on purpose"):
                link.run(fail)
            assert set(step_rows(store, link)) == {"kept"}
            assert link.run(prepared_on) > 0, "the rollback has the server forget nothing"

    def test_of_what_the_server_was_told_to_forget(self, store: Store) -> None:
        """Psycopg does so at a rollback of its own, as after a step.transaction that failed: the operation is done on
        another connection."""
        with store.link() as link:
            claim = taken(store, link)
            assert store.record(link, claim.fence, a_step("one"), lease_of(claim))
            link.run(lambda connection: connection.exec_driver_sql("DEALLOCATE ALL"))
            assert store.record(link, claim.fence, a_step("two"), lease_of(claim))
            assert set(step_rows(store, link)) == {"one", "two"}

    def test_of_a_connection_that_was_lost(self, store: Store) -> None:
        with store.link() as link:
            claim = taken(store, link)
            pid = link.run(lambda connection: connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())
            with store.engine.connect() as killer:
                killer.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 5000)")
            assert store.record(link, claim.fence, a_step("after"), lease_of(claim))
            assert set(step_rows(store, link)) == {"after"}


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C does what it does by default, whatever a test before has made of it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_the_wait_for_an_answer(store: Store, interruptible: None) -> None:
    """And the server is not left at it."""
    sleeping = Prepared(select(func.pg_sleep(30)), store.engine)
    main = threading.get_ident()
    with store.link() as link, store.engine.connect() as other:

        def is_asleep() -> bool:
            asked = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query ~ 'SELECT pg_sleep'"
            return bool(other.exec_driver_sql(f"{asked} AND pid <> pg_backend_pid()").scalar_one())

        def interrupt() -> None:
            wait_until(is_asleep, 20, "it sleeps on the server")
            signal.pthread_kill(main, signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            link.run(lambda connection: sleeping.execute(connection, {}))
        interrupter.join(20)
        wait_until(lambda: not is_asleep(), 20, "nobody sleeps there any more")
        assert store.now(link) > 0
