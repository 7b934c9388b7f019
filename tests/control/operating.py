"""What the tests of the client share: a client without Celery, and bodies that are executed by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from celery_durable.client import Client
from celery_durable.core.codec import encode
from celery_durable.core.duration import SECOND
from celery_durable.core.faults import write_error
from celery_durable.core.ids import fingerprint
from celery_durable.engine.events import event_of, new_event
from celery_durable.engine.settings import Settings
from celery_durable.model import FINISHED
from celery_durable.store.link import Link
from celery_durable.store.records import Aftermath, Claim
from celery_durable.store.store import Store
from tests.engine.driving import Driver
from tests.store.calling import parked
from tests.store.making import claimed, new_run, taken

__all__ = [
    "LEASE",
    "OF_RUNS",
    "STATUSES",
    "Clerk",
    "all_rows",
    "begin",
    "done",
    "driver_of",
    "emitted",
    "ended",
    "fail",
    "in_status",
    "rows_of_run",
    "stuck",
]

LEASE = 30 * SECOND
OF_RUNS = ("input", "step", "wait", "taken", "turn", "audit", "log")
"""The tables besides ``run`` whose rows belong to one run each."""
STATUSES = ("pending", "running", "suspended", "paused", "stuck", "completed", "failed", "cancelled")
_ids = itertools.count()


class Clerk(Client):
    """A client that notes what is to be done about other runs."""

    def __init__(self, store: Store, redact: Callable[[Any], Any] = lambda value: value) -> None:
        super().__init__(lambda: store, redact)
        self.followed = Aftermath()

    def _follow(self, aftermath: Aftermath) -> None:
        self.followed += aftermath

    @staticmethod
    def _new_id() -> str:
        return f"new-{next(_ids)}"


def driver_of(store: Store, body: Callable[..., Any], **settings: Any) -> Driver:
    return Driver(store, body, settings=Settings(lease=LEASE, **settings))


def begin(store: Store, link: Link, run_id: str = "r1", task: str = "t", args: Any = (), **values: Any) -> None:
    """A run that is recorded, with these arguments."""
    arguments = encode([list(args), {}])
    assert store.start(
        link, new_run(run_id, task=task, arguments=arguments, input_hash=fingerprint(arguments), **values)
    )


def ended(store: Store, link: Link, claim: Claim, status: str = "completed", **values: Any) -> Aftermath | None:
    """The end of a run by the worker that has it."""
    outcome = {"result": '"done"'} if status == "completed" else {"error": write_error(ValueError("no"))}
    return store.finish(
        link, claim.fence, status=status, now=claim.now, lease=LEASE, parent=claim.parent, **outcome | values
    )


def done(store: Store, link: Link, run_id: str, status: str = "completed") -> Aftermath | None:
    """A run that is taken and brought to its end."""
    return ended(store, link, claimed(store, link, run_id), status)


def in_status(store: Store, link: Link, status: str, run_id: str = "r1") -> None:
    """A run that stands like this; ``stuck``: parked because its code does not fit."""
    if status == "pending":
        store.start(link, new_run(run_id))
        return
    claim = taken(store, link, run_id)
    if status == "suspended":
        parked(store, link, claim)
    elif status == "paused":
        parked(store, link, claim)
        Clerk(store).pause(run_id)
    elif status == "stuck":
        store.pause(link, claim.fence, waiting_on="code: it does not fit", error=None)
    elif status != "running":
        ended(store, link, claim, status)


def fail(message: str = "no") -> Any:
    raise ValueError(message)


def emitted(store: Store, link: Link, name: str, key: str | None = None, event_id: str | None = None) -> list[str]:
    """Emit an event and dispatch it; the runs that it woke."""
    event = new_event(event_id or f"event {name} {key}", name, {"of": name}, key, max_payload=1000)
    store.emit(link, event, SECOND)
    stored = store.event(link, event.id)
    assert stored is not None
    store.close_gates(link, stored)
    woken = []
    for waits in store.waits_for(link, stored, 100):
        woken += store.deliver(link, stored, encode(event_of(stored)), waits, SECOND)
    store.dispatched(link, event.id, None)
    return woken


def all_rows(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    """All that the database holds."""
    with store.engine.connect() as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(table.select())), key=repr)
            for table in store.tables.metadata.sorted_tables
        }


def rows_of_run(store: Store, run_id: str) -> dict[str, int]:
    """How many rows of each table belong to a run."""
    found = {}
    with store.engine.connect() as connection:
        for name in OF_RUNS:
            table = getattr(store.tables, name)
            rows = connection.execute(table.select().where(table.c.run_id == run_id)).all()
            found[name] = len(rows)
        run = store.tables.run
        found["run"] = len(connection.execute(run.select().where(run.c.id == run_id)).all())
    return found


def stuck(store: Store) -> list[str]:
    """Runs that nobody would ever look at again: not ended, not due, and not waiting for anything real."""
    of = store.tables
    with store.engine.connect() as connection:
        runs = {row.id: row for row in connection.execute(of.run.select())}
        waiting = {row.run_id for row in connection.execute(of.wait.select())}
        turns = {row.run_id for row in connection.execute(of.turn.select()) if row.until is None}
        steps = connection.execute(of.step.select()).all()
    called = {
        row.run_id
        for row in steps
        if row.status == "waiting" and row.child in runs and runs[row.child].status not in FINISHED
    }
    real = waiting | turns | called
    return [
        run.id
        for run in runs.values()
        if run.status not in (*FINISHED, "paused")
        and run.due_at is None
        and run.id not in real
        and run.queued_at is None
    ]
