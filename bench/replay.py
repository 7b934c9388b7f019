"""Replaying a long history, against reading its rows."""

from __future__ import annotations

import time
import uuid

from bench.harness import alternate, one_pass, stores
from bench.steps import nothing
from celery_durable import step
from celery_durable.store.records import Claim, NewRun
from celery_durable.store.store import Store

RECORDS = 10_000


def body(records: int = RECORDS) -> None:
    for index in range(records):
        step.run(f"step-{index}", nothing)


def with_history(store: Store, records: int = RECORDS) -> str:
    """A run parked behind a long history, written in bulk."""
    run_id = uuid.uuid4().hex
    with store.link() as link:
        store.start(link, NewRun(run_id, "bench", "[[],{}]", "", "{}"))
        claim = store.claim(link, run_id, worker="bench", lease=30_000_000)
        assert isinstance(claim, Claim)
        rows = [
            {"run_id": run_id, "id": f"step-{index}", "position": index, "kind": "run", "status": "completed",
             "input_hash": "", "result": "null", "attempts": 1}
            for index in range(records)
        ]  # fmt: skip
        link.run(lambda connection: connection.execute(store.tables.step.insert(), rows))
        store.suspend(link, claim.fence, wake_at=None, due_at=None, waiting_on="the bench")
    return run_id


def ours(store: Store, records: int = RECORDS) -> float:
    run_id = with_history(store, records)
    began = time.perf_counter()
    one_pass(store, lambda: body(records), run_id)
    return time.perf_counter() - began


def bare(store: Store, records: int = RECORDS) -> float:
    run_id = with_history(store, records)
    with store.link() as link:
        link.run(lambda connection: connection.exec_driver_sql("SELECT 1"))
        began = time.perf_counter()
        link.run(lambda connection: connection.execute(store.statements.history, {"at_id": run_id}).all())
        return time.perf_counter() - began


def main() -> None:
    print(f"\nreplay: a pass over {RECORDS} recorded steps; microseconds per record, medians of 5 alternating turns")
    with stores() as made:
        for name, store in made.items():
            own, other, ratio = alternate(5, lambda store=store: ours(store), lambda store=store: bare(store))  # type: ignore[misc]
            scale = 1e6 / RECORDS
            print(f"  {name:<11} ours {own * scale:7.1f}   reading the rows {other * scale:7.1f}   ratio {ratio:.1f}")
