"""Forgetting runs that have ended, by hand and when their time is over: all of theirs goes, and nothing of others'."""

from __future__ import annotations

from typing import Any

import pytest

from celery_durable import step
from celery_durable.core.duration import SECOND
from celery_durable.core.ids import fingerprint
from celery_durable.engine.executor import Finished
from celery_durable.errors import RunNotFound
from celery_durable.store.link import Link
from celery_durable.store.operating import FORGOTTEN_AT_ONCE
from celery_durable.store.records import LogLine
from celery_durable.store.store import Store
from tests.store.making import put, taken

from .operating import OF_RUNS, Clerk, all_rows, begin, driver_of, emitted, ended, rows_of_run

DAY = 86_400 * SECOND


def full(store: Store, link: Link, clerk: Clerk, run_id: str) -> None:
    """A run that has rows in every table, and has ended."""

    def body() -> Any:
        step.state.set(run_id, 1)
        return [step.run("s", lambda: run_id), step.wait_for_event("w", f"of {run_id}").id]

    driver = driver_of(store, body)
    begin(store, link, run_id, args=(run_id,))
    driver.body = lambda *_: body()
    driver.one_pass(run_id)
    emitted(store, link, f"of {run_id}")
    clerk.pause(run_id, by="ann")
    clerk.resume(run_id, by="ann")
    assert isinstance(driver.one_pass(run_id), Finished)
    store.keep_log(link, run_id, [LogLine("0", None, 1, 20, "l", '"hello"')])
    # What is left behind where a worker dies at the wrong moment:
    of = store.tables
    with store.engine.begin() as connection:
        connection.execute(of.turn.insert().values(run_id=run_id, step_id="l", name="l", asked_at=1))
        connection.execute(of.wait.insert().values(run_id=run_id, step_id="x", name="x", since=1))


def test_all_rows_of_a_run_are_forgotten_and_nothing_of_others(store: Store, link: Link, clerk: Clerk) -> None:
    for run_id in ("old", "young"):
        full(store, link, clerk, run_id)
    assert all(rows_of_run(store, "old").values())
    counts = rows_of_run(store, "young")
    put(store, link, "old", created_at=1, finished_at=1, delivered_at=1)
    before = all_rows(store)
    assert clerk.prune("1d", by="bob", reason="room") == 1
    assert rows_of_run(store, "old") == dict.fromkeys((*OF_RUNS, "run"), 0)
    assert rows_of_run(store, "young") == counts
    after = all_rows(store)
    for name, rows in after.items():
        gone = [row for row in before[name] if "old" in row[:3]]
        if not name.endswith(("event", "state", "lease")):
            kept = [row for row in before[name] if row not in gone]
            assert [row for row in rows if row in kept] == kept
    assert len(after["durable_event"]) == len(after["durable_state"]) == 2
    (deed,) = [deed for deed in clerk.audit() if deed.action == "prune"]
    assert (deed.run_id, deed.actor, deed.reason, deed.details) == (
        None, "bob", "room", {"older_than": "1d", "runs": 1},
    )  # fmt: skip
    with pytest.raises(RunNotFound):
        clerk.get("old")
    assert (clerk.prune("1d"), len(clerk.audit())) == (0, 3)


@pytest.mark.parametrize("status", ["pending", "running", "suspended", "paused"])
def test_what_has_not_ended_is_never_forgotten(store: Store, link: Link, clerk: Clerk, status: str) -> None:
    taken(store, link)
    put(store, link, status=status, created_at=1, finished_at=1, keep_until=1)
    assert clerk.prune(0) == 0
    assert store.forget_runs(link) == 0


def test_many_are_forgotten_in_batches(store: Store, link: Link, clerk: Clerk) -> None:
    arguments = "[[],{}]"
    count = FORGOTTEN_AT_ONCE * 2 + 7
    run, given = store.tables.run, store.tables.input
    row = {"task": "t", "token": 1, "sends": 0, "passes": 1, "retries": 0, "recoveries": 0, "progress": 0,
           "input_hash": fingerprint(arguments), "status": "failed"}  # fmt: skip
    row |= dict.fromkeys(("created_at", "finished_at", "delivered_at"), 1)
    with store.engine.begin() as connection:
        connection.execute(run.insert(), [row | {"id": f"r{number}"} for number in range(count)])
        inputs = [{"run_id": f"r{number}", "arguments": arguments, "message": "{}"} for number in range(count)]
        connection.execute(given.insert(), inputs)
    assert store.forget_runs(link, older_than=DAY) == FORGOTTEN_AT_ONCE
    assert clerk.prune() == count - FORGOTTEN_AT_ONCE
    # In the transaction of each batch: who dies between two has left a row for what is gone.
    assert [deed.details["runs"] for deed in clerk.audit()] == [7, FORGOTTEN_AT_ONCE]
    assert clerk.prune() == 0
    assert clerk.runs() == ()


def test_a_run_is_kept_for_as_long_as_its_task_says(store: Store, link: Link) -> None:
    for run_id, retention in (("short", 0), ("long", DAY), ("default", None)):
        ended(store, link, taken(store, link, run_id), retention=retention)
    assert store.forget_runs(link) == 0  # Celery does not have their results yet
    for run_id in ("short", "long", "default"):
        put(store, link, run_id, delivered_at=1)
    assert store.forget_runs(link) == 1
    clerk = Clerk(store)
    assert {run.id for run in clerk.runs()} == {"long", "default"}
    with pytest.raises(RunNotFound):
        clerk.get("short")


def test_each_way_to_end_is_kept_for_a_time(database_url: str) -> None:
    store = Store(database_url, retention=DAY)
    store.migrate()
    clerk = Clerk(store)
    with store.link() as link:
        ended(store, link, taken(store, link, "finished"))
        ended(store, link, taken(store, link, "failed"), "failed")
        taken(store, link, "forced")
        clerk.cancel("forced", force=True)
        taken(store, link, "killed")
        store.end_from_outside(link, "killed", status="failed", error="{}")
        begin(store, link, "unbegun")
        clerk.cancel("unbegun")
        now = store.now(link)
        run = store.tables.run
        with store.engine.connect() as connection:
            kept = {row.id: row.keep_until for row in connection.execute(run.select())}
        assert {run_id for run_id, until in kept.items() if abs(until - now - DAY) < 60 * SECOND} == {
            "finished", "failed", "forced", "killed", "unbegun",
        }  # fmt: skip
        clerk.retry("failed")
        assert store.get(link, "failed")[0]["keep_until"] is None  # type: ignore[index]
    store.engine.dispose()


def test_a_run_that_is_retried_meanwhile_is_not_forgotten(store: Store, link: Link, clerk: Clerk) -> None:
    for run_id in ("a", "b"):
        ended(store, link, taken(store, link, run_id), "failed")
        put(store, link, run_id, keep_until=1, delivered_at=1)
    ids = [row.id for row in store._rows(link, store.statements.past_keeping, {"limit": 10})]
    assert sorted(ids) == ["a", "b"]
    clerk.retry("a")
    assert store.forget_runs(link) == 1
    assert [run.id for run in clerk.runs()] == ["a"]
