"""Runs that call others, for the store's tests. The step that calls the run ``c`` has the id ``call c``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery_durable.core.duration import SECOND
from celery_durable.engine.events import new_event
from celery_durable.store.link import Link
from celery_durable.store.records import Aftermath, Changes, Claim, Fence, NewRun, NewWait, Overtaken, Parent, StepWrite
from celery_durable.store.store import Store

from .making import LEASE, a_step, claimed, lease_of, new_run, taken

PARKING: dict[str, Any] = {"wake_at": None, "due_at": None, "waiting_on": "others"}


def step_of(child: str) -> str:
    return f"call {child}"


def a_call(child: str = "c", /, **values: Any) -> StepWrite:
    """The row of a step that calls this run."""
    return a_step(step_of(child), **{"kind": "call", "status": "waiting", "result": None, "child": child} | values)


def a_child(child: str = "c", parent: str = "r1", **values: Any) -> NewRun:
    return new_run(child, parent=Parent(parent, step_of(child)), **values)


def calls_of(*children: str, parent: str = "r1", **values: Any) -> Changes:
    return Changes(
        steps=tuple(a_call(child, position=number) for number, child in enumerate(children)),
        calls=tuple(a_child(child, parent, **values) for child in children),
    )


def a_wait(step_id: str = "wait", **values: Any) -> StepWrite:
    return a_step(step_id, **{"kind": "wait", "status": "waiting", "result": None} | values)


def waiting_for(claim: Claim, *names: str) -> Changes:
    """Steps that wait for events of their own names."""
    return Changes(
        steps=tuple(a_wait(name) for name in names),
        waits=tuple((name, NewWait(name, None, None, claim.created_at)) for name in names),
    )


def changed(store: Store, link: Link, claim: Claim, changes: Changes) -> Aftermath | Overtaken | None:
    return store.change(link, claim.fence, changes, lease_of(claim))


def together(store: Store, link: Link, fence: Fence, steps: Sequence[StepWrite], lease_until: int) -> bool:
    """Record new steps as a pass does: as one statement, where the database has one for it."""
    if store.dialect.writes_in_cte:
        return store.record_together(link, fence, steps, lease_until)
    return store.change(link, fence, Changes(steps=tuple(steps)), lease_until) is not None


def parked(store: Store, link: Link, claim: Claim, changes: Changes | None = None, **values: Any) -> Aftermath:
    found = store.suspend(link, claim.fence, changes=changes, **PARKING | values)
    assert isinstance(found, Aftermath), found
    return found


def called(store: Store, link: Link, *children: str, parent: str = "r1", quorum: int | None = None, **of: Any) -> None:
    """A run that is started, taken, and parked on others that it calls."""
    parked(store, link, taken(store, link, parent), calls_of(*children, parent=parent, **of), quorum=quorum)


def outcome_of(status: str) -> dict[str, Any]:
    return {"result": '"done"'} if status == "completed" else {"error": '{"type":"E"}'}


def ended(store: Store, link: Link, claim: Claim, status: str = "completed", **values: Any) -> Aftermath | None:
    """The end of a run by the worker that has it."""
    outcome = outcome_of(status) | values
    return store.finish(link, claim.fence, status=status, now=claim.now, lease=LEASE, parent=claim.parent, **outcome)


def done(store: Store, link: Link, child: str, status: str = "completed", **values: Any) -> Aftermath | None:
    """A run that is taken and brought to its end."""
    return ended(store, link, claimed(store, link, child), status, **values)


def over(store: Store, link: Link, child: str, status: str = "completed", **values: Any) -> Aftermath | None:
    """The end of a run as others hear of it."""
    return store.end_from_outside(link, child, status=status, **outcome_of(status) | values)


def emit(store: Store, link: Link, name: str) -> None:
    assert store.emit(link, new_event(f"event {name}", name, {"of": name}, None, max_payload=1000), SECOND)


def rows_of(store: Store, link: Link, table: str) -> list[dict[str, Any]]:
    """All rows of a table."""
    statement = getattr(store.tables, table).select()
    return [dict(row) for row in link.run(lambda connection: connection.execute(statement).mappings().all())]


def open_waits(store: Store, link: Link) -> set[str]:
    return {row["step_id"] for row in rows_of(store, link, "wait")}
