"""What is asked all the time costs the same however many runs sleep: it goes by an index, and to its end only."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine

from celery_durable.store.dialects import POSTGRESQL
from celery_durable.store.finding import Filter
from celery_durable.store.prepared import Prepared
from celery_durable.store.statements import Statements
from celery_durable.store.store import Store
from celery_durable.store.tables import Tables

SEARCHED = {
    "due": "due_at",
    "what_is_due": "due_at",
    "due_events": "due_at",
    "late": "due_at",
    "ailments": "due_at",
    "past_keeping": "keep_until",
}
"""Statements, and the time that each of them goes by."""


def text_of(store: Store, name: str) -> str:
    statement: Any = getattr(store.statements, name)
    return str(statement.params(limit=10, within=1).compile(store.engine, compile_kwargs={"literal_binds": True}))


@pytest.mark.parametrize("name", [name for name in SEARCHED if name != "past_keeping"])
def test_sqlite_searches(sqlite_url: str, name: str) -> None:
    store = Store(sqlite_url)
    store.migrate()
    with store.engine.connect() as connection:
        plan = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text_of(store, name)}")]
    assert [line for line in plan if f"({SEARCHED[name]}<?)" in line], plan
    assert not [line for line in plan if line.startswith("SCAN durable_") and " INDEX " not in line], plan
    store.engine.dispose()


ASLEEP_AND_ENDED = """
INSERT INTO durable_run
    (id, task, status, token, sends, passes, retries, recoveries, progress, input_hash,
     created_at, finished_at, delivered_at, due_at, keep_until)
SELECT
    number, 'task ' || number % 20, CASE asleep WHEN 1 THEN 'suspended' ELSE 'completed' END, 1, 0, 1, 0, 0, 0, 'x',
    number, number, number, CASE asleep WHEN 1 THEN later END, CASE asleep WHEN 0 THEN later END
FROM (
    SELECT
        number, number % 2 AS asleep,
        extract(epoch FROM clock_timestamp())::bigint * 1000000 + number * 60000000 AS later
    FROM generate_series(1::bigint, 5000) AS number
) AS numbers
"""


@pytest.mark.parametrize("name", list(SEARCHED))
def test_postgresql_compares_no_row_that_is_not_wanted(postgresql_url: str, name: str) -> None:
    """It does where a time is compared with a clock that goes on: then all that sleeps is read at every look."""
    store = Store(postgresql_url)
    store.migrate()
    with store.engine.connect() as connection:
        connection.exec_driver_sql(ASLEEP_AND_ENDED.replace("%", "%%"))
        connection.exec_driver_sql("ANALYZE durable_run")
        connection.exec_driver_sql("SET enable_seqscan = off")
        connection.exec_driver_sql("SET enable_bitmapscan = off")
        asked = connection.exec_driver_sql("EXPLAIN " + text_of(store, name).replace("%", "%%"))
        plan = [row[0].strip() for row in asked]
    assert [line for line in plan if line.startswith("Index Cond: ") and f"({SEARCHED[name]} <= " in line], plan
    store.engine.dispose()


PLACES = {"ix_durable_run_status": Filter(statuses=("failed", "paused")), "ix_durable_run_task": Filter(task="t")}
"""The index that leads to the runs that a filter holds for, and to how many there are, without reading one."""


def looked_up(store: Store, wanted: Filter) -> list[str]:
    """The statements that count and find those runs."""
    found: list[Any] = [store._counting(wanted), store._newest(wanted, 10, before=(5, "r"))]
    return [str(one.compile(store.engine, compile_kwargs={"literal_binds": True})) for one in found]


@pytest.mark.parametrize("index", list(PLACES))
def test_sqlite_finds_and_counts_runs_by_an_index_alone(sqlite_url: str, index: str) -> None:
    store = Store(sqlite_url)
    store.migrate()
    with store.engine.connect() as connection:
        for text in looked_up(store, PLACES[index]):
            plan = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}")]
            ways = [line for line in plan if "durable_run" in line]
            assert ways, plan
            assert all(f"SEARCH durable_run USING COVERING INDEX {index} (" in line for line in ways), plan
    store.engine.dispose()


@pytest.mark.parametrize("index", list(PLACES))
def test_postgresql_finds_and_counts_runs_by_an_index_alone(postgresql_url: str, index: str) -> None:
    store = Store(postgresql_url)
    store.migrate()
    with store.engine.connect() as connection:
        connection.exec_driver_sql("SET enable_seqscan = off")
        connection.exec_driver_sql("SET enable_bitmapscan = off")
        for text in looked_up(store, PLACES[index]):
            plan = [row[0] for row in connection.exec_driver_sql("EXPLAIN " + text.replace("%", "%%"))]
            ways = [line for line in plan if " on durable_run" in line]
            assert ways, plan
            assert all("Index Only Scan" in line and index in line for line in ways), plan
    store.engine.dispose()


MANY_EVENTS = """
INSERT INTO durable_event (seq, id, name, key, payload, content_hash, emitted_at, due_at, sends, dispatched_at)
SELECT number, 'event ' || number, 'paid', 'k', 'null', 'h', number, CASE WHEN number > 4990 THEN number END, 1,
    CASE WHEN number <= 4990 THEN number END
FROM generate_series(1::bigint, 5000) AS number
"""


@pytest.mark.parametrize("name", ["earlier_by_name", "earlier_by_key"])
def test_postgresql_reads_no_dispatched_event_to_find_those_that_are_not(postgresql_url: str, name: str) -> None:
    """All that were ever emitted by a name were read at each dispatch that found a wait for any key of it."""
    store = Store(postgresql_url)
    store.migrate()
    statement: Any = getattr(store.statements, name)
    given = {"at_name": "paid", "at_seq": 10_000, "limit": 200}
    if name == "earlier_by_key":
        given["at_key"] = "k"
    asked = str(statement.params(**given).compile(store.engine, compile_kwargs={"literal_binds": True}))
    with store.engine.connect() as connection:
        connection.exec_driver_sql(MANY_EVENTS)
        connection.exec_driver_sql("ANALYZE durable_event")
        plan = [row[0].strip() for row in connection.exec_driver_sql("EXPLAIN " + asked)]
    assert [line for line in plan if "ix_durable_event_due" in line], plan
    store.engine.dispose()


def of_one_run() -> list[str]:
    """The statements that name a run by its id."""
    statements = Statements(Tables.build("durable_"), POSTGRESQL)
    dialect = create_engine("postgresql+psycopg://").dialect
    found = []
    for name in dir(statements):
        compiles = getattr(getattr(statements, name), "compile", None)
        compiled: Any = compiles and compiles(dialect=dialect)
        if compiled is None or "durable_run.id = " not in str(compiled):
            continue
        # A list that is given makes another text each time.
        if not any(bind.expanding and bind.required for bind in compiled.bind_names):
            found.append(name)
    return found


def generic_plan(connection: Connection, store: Store, name: str) -> list[str]:
    """How PostgreSQL executes a statement whatever its values are."""
    text = Prepared(getattr(store.statements, name), store.engine)._formed({}).text
    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", text)))
    text = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", text).replace("%%", "%")
    driver: Any = connection.connection.driver_connection
    driver.execute("SET plan_cache_mode = force_generic_plan")
    driver.execute(f"PREPARE asked AS {text}")
    nothing = f"({', '.join(['NULL'] * len(names))})" if names else ""
    plan = [row[0].strip() for row in driver.execute(f"EXPLAIN EXECUTE asked{nothing}").fetchall()]
    driver.execute("DEALLOCATE asked")
    return plan


def test_many_statements_name_a_run_by_its_id() -> None:
    assert {"claim", "finish", "record_new", "record_new_if_fresh", "suspend", "emit_by_key"} <= set(of_one_run())


@pytest.mark.parametrize("is_known", [False, True], ids=["empty", "few are at work"])
def test_postgresql_goes_to_a_run_by_its_id(postgresql_url: str, is_known: bool) -> None:
    """And not through all that have its status: there are few of them, and in the index thousands of dead rows of
    those which had it. A step took twice as long for that."""
    store = Store(postgresql_url)
    store.migrate()
    with store.engine.connect() as connection:
        if is_known:
            connection.exec_driver_sql(ASLEEP_AND_ENDED.replace("%", "%%"))
            connection.exec_driver_sql("UPDATE durable_run SET status = 'running' WHERE id IN ('7', '8')")
            connection.exec_driver_sql("ANALYZE durable_run")
        for name in of_one_run():
            plan = generic_plan(connection, store, name)
            by_status = [line for line in plan if "Index Cond" in line and "status)" in line]
            assert not by_status, (name, plan)
    store.engine.dispose()


@pytest.mark.parametrize("name", ["emit_by_key", "emit_by_name", "answer_lone"])
def test_postgresql_answers_a_wait_without_reading_a_table(postgresql_url: str, name: str) -> None:
    """Not even one that is small as yet: the plan is made once, and the table grows."""
    store = Store(postgresql_url)
    store.migrate()
    with store.engine.connect() as connection:
        plan = generic_plan(connection, store, name)
    assert not [line for line in plan if "Seq Scan" in line], plan
    if name == "emit_by_key":
        found = [line for line in plan if line.startswith("Index Cond") and "(name)" in line and "key" in line]
        assert len(found) == 2, plan  # those of its key, and those without one
    store.engine.dispose()
