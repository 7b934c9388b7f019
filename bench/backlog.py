"""Claims and wake-ups while many runs are due and wait, against a table without them.

Each turn starts runs, claims each, parks it, wakes it by an event, claims it again and ends it: once in an empty table,
once in one with a backlog, in turns that alternate. The best turn is the one that other work disturbed least.
"""

from __future__ import annotations

import os
import time
import uuid

from sqlalchemy import insert, text

from bench.harness import stores
from bench.seeding import take_stock
from bench.watching import processor_use
from celery_durable.core.duration import SECOND
from celery_durable.store.link import Link
from celery_durable.store.records import Changes, Claim, NewEvent, NewRun, NewWait, StepWrite
from celery_durable.store.store import Store

BACKLOGS = tuple(int(number) for number in os.environ.get("BENCH_BACKLOGS", "20000 200000").split())
RUNS = 60
TURNS = 9


def main() -> None:
    print(f"\nbacklog: claims and wake-ups of {RUNS} runs, a second, the best of {TURNS} alternating turns")
    for waiting in BACKLOGS:
        with stores() as empty, stores() as full:
            for name in empty:
                fill(full[name], waiting)
                claims, wakes = ratios(empty[name], full[name])
                print(f"  {name:<11} {waiting:>7,} due   {claims}   {wakes}   ({processor_use()})", flush=True)


def fill(store: Store, runs: int) -> None:
    """Runs that are due, as starts that nobody has taken are."""
    with store.link() as link:
        store.start(link, NewRun("first", "bench", "[[],{}]", "", "{}", due_in=-3_600 * SECOND))
    tables = (store.tables.run, store.tables.input)
    with store.engine.connect() as connection:
        rows = [dict(connection.execute(table.select()).mappings().one()) for table in tables]
        for start in range(1, runs, 5_000):
            connection.execute(text(store.dialect.begin))
            for table, row in zip(tables, rows, strict=True):
                own = "id" if "id" in row else "run_id"
                connection.execute(
                    insert(table), [row | {own: f"due-{number}"} for number in range(start, min(runs, start + 5_000))]
                )
            connection.execute(text("COMMIT"))
        take_stock(store, connection)


def ratios(empty: Store, full: Store) -> tuple[str, str]:
    """What is done a second with the backlog and without, and the ratio of the two: claims, and wake-ups."""
    turns = [(a_turn(full), a_turn(empty)) for _ in range(TURNS)]
    told = []
    for place, what in enumerate(("claims", "wake-ups")):
        with_backlog, without = (max(turn[of][place] for turn in turns) for of in (0, 1))
        told.append(f"{what} {with_backlog:6,.0f} of {without:6,.0f}: {with_backlog / without:4.2f}")
    return told[0], told[1]


def a_turn(store: Store) -> tuple[float, float]:
    names = [uuid.uuid4().hex for _ in range(RUNS)]
    with store.link() as link:
        for name in names:
            store.start(link, NewRun(name, "bench", "[[],{}]", "", "{}"))
        began = time.perf_counter()
        claims = [claimed(store, link, name) for name in names]
        claiming = time.perf_counter() - began
        for claim in claims:
            park(store, link, claim)
        began = time.perf_counter()
        for name in names:
            wake(store, link, name)
        waking = time.perf_counter() - began
        for name in names:
            claim = claimed(store, link, name)
            store.finish(link, claim.fence, status="completed", now=claim.now, lease=SECOND, result="1")
            store.mark_delivered(link, [claim.fence])
    return RUNS / claiming, RUNS / waking


def claimed(store: Store, link: Link, run_id: str) -> Claim:
    claim = store.claim(link, run_id, worker="bench", lease=60 * SECOND)
    assert isinstance(claim, Claim), claim
    return claim


def park(store: Store, link: Link, claim: Claim) -> None:
    wait = StepWrite("woken", 0, "wait", "waiting", input_hash="", attempts=1)
    changes = Changes(steps=(wait,), waits=(("woken", NewWait("woken", claim.fence.run_id, None, claim.created_at)),))
    store.suspend(link, claim.fence, changes=changes, watched=["woken"], wake_at=None, due_at=None, waiting_on="woken")


def wake(store: Store, link: Link, run_id: str) -> None:
    """All that an event asks of the database, from the emit to the message of the run that it wakes."""
    store.emit(link, NewEvent(run_id, "woken", run_id, "null", "", None), 3 * SECOND)
    event = store.event(link, run_id)
    assert event is not None
    store.close_gates(link, event)
    store.prospects(link, event)
    for waits in store.waits_for(link, event, 200):
        woken = store.deliver(link, event, "null", waits, 3 * SECOND)
        assert [due.fence.run_id for due in store.to_send(link, woken)] == [run_id]
    store.dispatched(link, event.id, None)
