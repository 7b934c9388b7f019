"""An event and a wait for it that come at the same moment find each other, whichever is first.

The window is between a registration's look for events and its commit. It is held open here on purpose, and hit by
chance some thousand times; and the lock that closes it is taken out, to see that the tests would notice.
"""

from __future__ import annotations

import random
import re
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event, select

from celery_durable.core.codec import encode
from celery_durable.core.duration import SECOND
from celery_durable.engine.events import event_of, new_event
from celery_durable.store.link import Link
from celery_durable.store.records import Changes, Claim, Fence, NewWait, Overtaken
from celery_durable.store.store import Store

from .making import a_step, claimed, lease_of, new_run

ROUNDS = 700
"""Emits that meet a registration, for each database and each kind of wait."""


def register(store: Store, link: Link, claim: Claim, key: str | None, on_locked: Any = lambda: None) -> None:
    """What a pass does at ``step.wait_for_event``."""
    wait = NewWait("paid", key, None, claim.created_at)
    found = store.suspend(
        link,
        claim.fence,
        changes=Changes(steps=(a_step("wait", kind="wait", status="waiting", result=None),), waits=(("wait", wait),)),
        wake_at=None,
        due_at=None,
        waiting_on="paid",
        on_locked=on_locked,
    )
    if isinstance(found, Overtaken):
        (event,) = found.events.values()
        taken = a_step("wait", kind="wait", result=encode(event_of(event)))
        assert store.take_event(link, claim.fence, taken, event.seq, lease_of(claim))
    else:
        assert found is not None


def emit_and_dispatch(store: Store, event_id: str, key: str | None) -> list[str]:
    """What ``emit`` and the dispatch task do."""
    with store.link() as link:
        assert store.emit(link, new_event(event_id, "paid", {"n": event_id}, key, max_payload=1000), SECOND)
        emitted = store.event(link, event_id)
        assert emitted is not None
        store.close_gates(link, emitted)
        woken = []
        for waits in store.waits_for(link, emitted, 100):
            woken += store.deliver(link, emitted, encode(event_of(emitted)), waits, SECOND)
        return woken


def begun(store: Store, link: Link, run_id: str) -> Claim:
    assert store.start(link, new_run(run_id))
    return claimed(store, link, run_id)


def answers(store: Store) -> dict[str, Any]:
    """How each run's wait stands, and what is taken."""
    step, taken = store.tables.step, store.tables.taken
    with store.engine.connect() as connection:
        statuses = {row.run_id: row.status for row in connection.execute(select(step.c.run_id, step.c.status))}
        return {"statuses": statuses, "taken": [tuple(row) for row in connection.execute(select(taken.c.run_id))]}


def take_out_the_lock(store: Store) -> None:
    """The same statements, less what locks a gate."""

    def unlocked(_: Any, __: Any, statement: str, parameters: Any, *rest: Any) -> tuple[str, Any]:
        statement = re.sub(r"pg_advisory_xact_lock(_shared)?\(", "abs(", statement)
        if "FROM durable_lease" in statement:
            statement = re.sub("LOCK IN SHARE MODE|FOR UPDATE", "", statement)
        return statement, parameters

    event.listen(store.engine, "before_cursor_execute", unlocked, retval=True)


def meet_in_the_window(
    store: Store, key: str | None, event_key: str | None, patience: float = 0.5
) -> tuple[list[str], bool]:
    """Emit and dispatch while a registration has looked and not committed; who was woken, and whether the dispatch
    had to wait for the commit."""
    pool = ThreadPoolExecutor(1)
    dispatch: list[Future[list[str]]] = []
    waited = []

    def in_the_window() -> None:
        dispatch.append(pool.submit(emit_and_dispatch, store, "e1", event_key))
        try:
            dispatch[0].result(timeout=patience)
        except TimeoutError:
            waited.append(True)

    with store.link() as link, pool:
        register(store, link, begun(store, link, "r1"), key, in_the_window)
    return dispatch[0].result(), bool(waited)


@pytest.mark.parametrize(("key", "event_key"), [("k", "k"), (None, "k"), (None, None)])
def test_a_dispatch_waits_for_a_registration_that_has_looked(racing: Store, key: str | None, event_key: str) -> None:
    woken, waited = meet_in_the_window(racing, key, event_key)
    assert woken == ["r1"]
    assert waited
    assert answers(racing) == {"statuses": {"r1": "completed"}, "taken": [("r1",)]}


@pytest.mark.parametrize("database", ["postgresql", "mysql"])
def test_without_the_lock_the_event_is_lost(request: pytest.FixtureRequest, database: str) -> None:
    """On SQLite there is no lock to take out: who writes is alone."""
    store = Store(request.getfixturevalue(f"{database}_url"))
    store.migrate()
    take_out_the_lock(store)
    woken, waited = meet_in_the_window(store, "k", "k", patience=30)  # nothing holds it but a busy machine
    assert not waited
    assert woken == []
    assert answers(store)["statuses"] == {"r1": "waiting"}
    store.engine.dispose()


def race(store: Store, rounds: int, keyed: bool) -> dict[str, Any]:
    """Registrations and emits of one key at one moment, over and over, one of the two a little later.

    Between look and commit a pass tells the result backend what the run waits for: that takes a moment as well.
    """
    luck = random.Random(7)
    meeting = threading.Barrier(2)
    delays = [luck.uniform(-0.003, 0.003) for _ in range(rounds)]

    def emitter() -> None:
        for index in range(rounds):
            meeting.wait(30)
            threading.Event().wait(max(0.0, delays[index]))
            emit_and_dispatch(store, f"e{index}", f"k{index}" if keyed else None)
            meeting.wait(30)

    with ThreadPoolExecutor(1) as pool, store.link() as link:
        emitting = pool.submit(emitter)
        for index in range(rounds):
            claim = begun(store, link, f"r{index}")
            meeting.wait(30)
            threading.Event().wait(max(0.0, -delays[index]))
            told = luck.uniform(0, 0.002)
            register(store, link, claim, f"k{index}" if keyed else None, lambda: threading.Event().wait(told))  # noqa: B023
            meeting.wait(30)
        emitting.result()
    return answers(store)


@pytest.mark.slow
@pytest.mark.parametrize("keyed", [True, False], ids=["with a key", "by name"])
def test_no_event_is_lost_and_none_is_taken_twice(store: Store, keyed: bool) -> None:
    found = race(store, ROUNDS, keyed)
    lost = [run for run, status in found["statuses"].items() if status != "completed"]
    assert lost == []
    assert len(found["taken"]) == len(set(found["taken"])) == ROUNDS  # each run has one event, and only one


@pytest.mark.slow
@pytest.mark.parametrize("database", ["postgresql", "mysql"])
def test_the_race_would_show_a_missing_lock(request: pytest.FixtureRequest, database: str) -> None:
    store = Store(request.getfixturevalue(f"{database}_url"))
    store.migrate()
    take_out_the_lock(store)
    statuses = race(store, ROUNDS, True)["statuses"]
    store.engine.dispose()
    assert "waiting" in statuses.values(), "the race above proves nothing: it never meets the window"


def test_a_run_that_is_held_while_its_event_comes_does_not_sleep_over_it(store: Store) -> None:
    """A pass reads its history, then the event is delivered to the run that it holds, then it parks again."""
    with store.link() as link:
        register(store, link, begun(store, link, "r1"), "k")
        store.skip_wait(link, "r1")
        again = claimed(store, link, "r1")
        assert emit_and_dispatch(store, "e1", "k") == []  # held: nothing to wake
        parked = store.suspend(link, again.fence, watched=["wait"], wake_at=None, due_at=None, waiting_on="paid")
        assert isinstance(parked, Overtaken)
        assert [record.status for record in parked.records] == ["completed"]
        assert store.running_under(link, "r1", "w/1") == Fence("r1", again.fence.token)


def test_a_timeout_and_an_event_at_the_same_instant_have_one_outcome(racing: Store) -> None:
    """The run is taken at its deadline while the event is delivered: who locks the run first is recorded."""
    store = racing
    outcomes = set()
    for index in range(30):
        run = f"r{index}"
        with store.link() as link:
            register(store, link, begun(store, link, run), run)
            store.skip_wait(link, run)
            claim = claimed(store, link, run)
            with ThreadPoolExecutor(1) as pool:
                dispatch = pool.submit(emit_and_dispatch, store, f"e{index}", run)
                if index % 3:
                    threading.Event().wait(0.001 * (index % 7))
                timed_out = a_step("wait", kind="wait", result="null", known=True)
                record = store.end_wait(link, claim.fence, timed_out, lease_of(claim))
                dispatch.result()
            assert record is not None
            kept = store.get(link, run)
            assert kept is not None
            assert kept[1][0]["result"] == record.result  # what the pass goes on with is what is recorded
            taken = {row[0] for row in answers(store)["taken"]}
            assert (run in taken) == (record.result != "null")
            outcomes.add(record.result == "null")
    assert outcomes, "nothing was tried"
