"""Statements that go to the driver as text do what SQLAlchemy would do with them."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from sqlalchemy import Connection, bindparam, case, event, insert, literal, select, tuple_
from sqlalchemy.exc import DBAPIError, IntegrityError

from celery_durable.store.link import Link
from celery_durable.store.prepared import Prepared
from celery_durable.store.store import Store

from .making import a_step, lease_of, new_run, step_rows, taken

LEASES = [("a", "ann", 1), ("b", "bob", 2), ("c", "cem", 3)]


class Reversed:
    """A codec that anybody can read."""

    def encode(self, data: bytes) -> bytes:
        return data[::-1]

    def decode(self, data: bytes) -> bytes:
        return data[::-1]


@pytest.fixture
def filled(store: Store, link: Link) -> Store:
    """Some rows of the simplest table."""
    lease = store.tables.lease
    rows = [{"name": name, "holder": holder, "until": until} for name, holder, until in LEASES]
    link.run(lambda connection: connection.execute(insert(lease), rows))
    return store


def statements(store: Store) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Statements of each kind, with their values."""
    lease = store.tables.lease
    ours = select(lease).where(lease.c.until < 10).order_by(lease.c.name)
    one_of = ours.where(lease.c.name.in_(bindparam("names", expanding=True)))
    pairs = ours.where(tuple_(lease.c.name, lease.c.until).in_(bindparam("pairs", expanding=True)))
    many = [f"name-{number}" for number in range(40)]
    return {
        "a value": (ours.where(lease.c.name == bindparam("name")), {"name": "b"}),
        "no row": (ours.where(lease.c.name == bindparam("name")), {"name": "nobody"}),
        "values of its own": (ours.where(lease.c.name.in_(["a", "c"])), {}),
        "a list": (one_of, {"names": ["a", "b"]}),
        "a list of one": (one_of, {"names": ["c"]}),
        "a list of none": (one_of, {"names": []}),
        "a long list": (one_of, {"names": [*many, "b"]}),
        "pairs": (pairs, {"pairs": [("a", 1), ("b", 3), ("c", 3)]}),
        "a truth": (select(lease.c.name, (lease.c.until > 1).label("late")).order_by(lease.c.name), {}),
        "a percent sign": (select(literal("100 %").label("part")), {}),
        "a choice": (select(case((lease.c.until > bindparam("most"), "late"), else_="early")), {"most": 2}),
        "a limit": (ours.limit(bindparam("limit")), {"limit": 2}),
    }


@pytest.mark.parametrize("what", statements(Store("sqlite://")))
def test_it_gives_what_sqlalchemy_gives(filled: Store, link: Link, what: str) -> None:
    statement, values = statements(filled)[what]
    prepared = Prepared(statement, filled.engine)
    for _ in range(2):  # made ready, and again
        answer = link.run(lambda connection: prepared.execute(connection, values))
        expected = link.run(lambda connection: connection.execute(statement, values).all())
        assert [tuple(row) for row in answer.rows] == [tuple(row) for row in expected]
        assert answer.mappings() == [dict(row._mapping) for row in expected]
        assert [list(map(type, row)) for row in answer.rows] == [list(map(type, row)) for row in expected]


def test_lists_of_other_lengths(filled: Store, link: Link) -> None:
    statement, _ = statements(filled)["a list"]
    prepared = Prepared(statement, filled.engine)

    def found(connection: Connection) -> list[list[str]]:
        return [prepared.execute(connection, {"names": names}).scalars() for names in lists]

    lists = [["a"], ["a", "c"], [], ["b"], ["c", "b", "a"]]
    assert link.run(found) == [sorted(names) for names in lists]


def test_how_many_rows_were_changed(filled: Store, link: Link) -> None:
    lease = filled.tables.lease
    statement = (
        lease.update().where(lease.c.until < bindparam("most"), lease.c.until > 0).values(holder=bindparam("by"))
    )
    prepared = Prepared(statement, filled.engine)
    answer = link.run(lambda connection: prepared.execute(connection, {"most": 3, "by": "eve"}))
    assert (answer.rowcount, answer.first(), answer.scalar()) == (2, None, None)


def test_values_are_made_into_what_is_stored_and_back(database_url: str) -> None:
    store = Store(database_url, sealer=Reversed())
    store.migrate()
    with store.link() as link:
        claim = taken(store, link)
        assert store.record(link, claim.fence, a_step("s", result='"kept"'), lease_of(claim))
        assert step_rows(store, link)["s"]["result"] == '"kept"'
        result = Store(database_url).tables.step.c.result
        stored = link.run(lambda connection: connection.execute(select(result)).scalar_one())
        assert stored.startswith("sealed:")
    store.engine.dispose()


def test_what_is_no_text_for_a_database_is_written_out(store: Store, link: Link) -> None:
    lease = store.tables.audit
    prepared = Prepared(insert(lease).values(action="a", at=1, actor=bindparam("actor")), store.engine)
    link.run(lambda connection: prepared.execute(connection, {"actor": "nul\x00"}))
    assert link.run(lambda connection: connection.execute(select(lease.c.actor)).scalar_one()) == "nul\\x00"


def test_whoever_listens_hears_of_each_statement(store: Store, link: Link) -> None:
    heard: list[str] = []

    def hear(connection: Connection, cursor: Any, statement: str, *rest: Any) -> None:
        heard.append(statement.split()[0])

    event.listen(store.engine, "before_cursor_execute", hear)
    claim = taken(store, link)
    assert "UPDATE" in heard
    heard.clear()
    assert store.record(link, claim.fence, a_step("s"), lease_of(claim))
    assert heard == ["WITH" if store.dialect.writes_in_cte else "INSERT"]
    event.remove(store.engine, "before_cursor_execute", hear)
    assert store.record(link, claim.fence, a_step("t"), lease_of(claim))
    assert len(heard) == 1


def test_its_log_has_each_statement(store: Store, link: Link, caplog: pytest.LogCaptureFixture) -> None:
    store.now(link)
    assert not caplog.messages
    with caplog.at_level(logging.INFO, "sqlalchemy.engine.Engine"), store.link() as anew:
        store.now(anew)
    assert any(message.startswith("SELECT") for message in caplog.messages)


def test_an_error_is_sqlalchemys(filled: Store, link: Link) -> None:
    prepared = Prepared(insert(filled.tables.lease).values(name=bindparam("name"), holder="h", until=1), filled.engine)
    with pytest.raises(IntegrityError) as refused:
        link.run(lambda connection: prepared.execute(connection, {"name": "a"}))
    assert "INSERT INTO" in str(refused.value.statement)
    assert not refused.value.connection_invalidated
    assert link.run(lambda connection: prepared.execute(connection, {"name": "d"})).rowcount == 1


def test_a_connection_that_is_lost_takes_the_others_of_its_pool_along(postgresql_url: str) -> None:
    store = Store(postgresql_url)
    store.migrate()
    ask = Prepared(store.statements.now, store.engine)
    with store.engine.connect() as first, store.engine.connect() as second:
        pids = [held.connection.driver_connection.info.backend_pid for held in (first, second)]  # type: ignore[union-attr]
    with Store(postgresql_url).engine.connect() as killer:
        for pid in pids:
            killer.exec_driver_sql(f"SELECT pg_terminate_backend({pid}, 5000)")
    with store.engine.connect() as broken, pytest.raises(DBAPIError) as lost:
        ask.execute(broken, {})
    assert lost.value.connection_invalidated
    with store.engine.connect() as sound:  # the other one was as old, and is not tried
        assert ask.execute(sound, {}).scalar() > 0
    store.engine.dispose()


class TestAClaimThatDoesNotWaitForTheDisk:
    def test_sqlite_waits_again_after_it(self, sqlite_url: str) -> None:
        store = Store(sqlite_url)
        store.migrate()
        with store.link() as link:
            store.claim(link, "nobody", worker="w", lease=1)
            taken(store, link)
            assert link.run(lambda connection: connection.exec_driver_sql("PRAGMA synchronous").scalar()) == 2
        store.engine.dispose()

    def test_sqlite_waits_again_after_one_that_was_given_up(self, sqlite_url: str) -> None:
        store = Store(sqlite_url)
        store.migrate()
        with store.link() as link:

            def fail(connection: Connection) -> None:
                with link.hurrying(connection):
                    mode = connection.exec_driver_sql("PRAGMA synchronous").scalar()
                    raise KeyboardInterrupt(mode)

            with pytest.raises(KeyboardInterrupt, match="1"):
                link.run(fail)
            assert link.run(lambda connection: connection.exec_driver_sql("PRAGMA synchronous").scalar()) == 2
        store.engine.dispose()

    def test_postgresql_waits_again_after_it(self, postgresql_url: str) -> None:
        store = Store(postgresql_url)
        store.migrate()
        seen = []

        def claim(connection: Connection) -> None:
            def mode() -> Any:
                return connection.exec_driver_sql("SHOW synchronous_commit").scalar()

            seen.append(mode())
            with link.atomic(connection):
                values = {"at_id": "r", "token": 1, "worker": "w", "lease": 1, "slack": 0}
                connection.execute(store.statements.claim, values | {"code_version": None, "run_timeout": None})
                seen.append(mode())
            seen.append(mode())

        with store.link() as link:
            link.run(lambda connection: connection.exec_driver_sql("SET synchronous_commit = on"))
            store.start(link, new_run("r"))
            link.run(claim)
        assert seen == ["on", "off", "on"]
        store.engine.dispose()
