"""Runs and steps for the store's tests."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, update

from celery_durable.core.duration import SECOND
from celery_durable.store.link import Link
from celery_durable.store.records import Claim, Fence, NewRun, StepWrite
from celery_durable.store.store import Store

LEASE = 30 * SECOND
STALE = -1
"""A token that no run has."""


def new_run(run_id: str = "r1", **values: Any) -> NewRun:
    given: dict[str, Any] = {"task": "t", "arguments": "[[1],{}]", "input_hash": "h1", "message": '{"queue":"q"}'}
    return NewRun(run_id, **given | values)


def taken(store: Store, link: Link, run_id: str = "r1", **values: Any) -> Claim:
    """A run that was started and claimed."""
    assert store.start(link, new_run(run_id, **values))
    return claimed(store, link, run_id)


def claimed(store: Store, link: Link, run_id: str = "r1") -> Claim:
    claim = store.claim(link, run_id, worker="w/1", lease=LEASE)
    assert isinstance(claim, Claim), claim
    return claim


def lease_of(claim: Claim) -> int:
    return claim.now + LEASE


def a_step(step_id: str = "s", **values: Any) -> StepWrite:
    given: dict[str, Any] = {
        "position": 0,
        "kind": "run",
        "status": "completed",
        "result": "1",
        "input_hash": "i",
        "attempts": 1,
    }
    return StepWrite(step_id, **given | values)


def run_row(store: Store, link: Link, run_id: str = "r1") -> dict[str, Any]:
    found = store.get(link, run_id)
    assert found is not None
    return dict(found[0])


def step_rows(store: Store, link: Link, run_id: str = "r1") -> dict[str, dict[str, Any]]:
    found = store.get(link, run_id)
    assert found is not None
    return {row["id"]: dict(row) for row in found[1]}


def put(store: Store, link: Link, run_id: str = "r1", **values: Any) -> None:
    """Change a run's row past all operations."""
    run = store.tables.run
    link.run(lambda connection: connection.execute(update(run).where(run.c.id == run_id).values(**values)))


def stale(claim: Claim) -> Fence:
    return Fence(claim.fence.run_id, STALE)


def prepared_on(connection: Connection) -> int:
    """How many statements of ours PostgreSQL has ready on this connection."""
    ours = "SELECT count(*) FROM pg_prepared_statements WHERE starts_with(name, 'durable')"
    return int(connection.exec_driver_sql(ours).scalar_one())
