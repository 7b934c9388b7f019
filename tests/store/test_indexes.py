"""What is asked all the time costs the same however many runs sleep: it goes by an index, and to its end only."""

from __future__ import annotations

from typing import Any

import pytest

from celery_durable.store.finding import Filter
from celery_durable.store.store import Store

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
