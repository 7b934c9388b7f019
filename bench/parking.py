"""Many parked runs in a moment: one that a real worker has parked, copied in the database with ids of their own."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, insert, select, update

from bench.fleet import PATIENCE, Fleet
from bench.load_app import asleep, waiting
from bench.seeding import take_stock
from bench.workers import until
from celery_durable.core.duration import SECOND
from celery_durable.core.ids import fingerprint
from celery_durable.store.store import Store

__all__ = ["bring_forward", "park_asleep", "park_waiting"]

HOUR = 3600.0
HORIZON = 10 * SECOND
"""The default of ``durable_eta_horizon``: the sweeper looks at a sleeping run that long before its time."""
_KEY = "key-of-a-run"
_BATCH = 5_000


def park_asleep(fleet: Fleet, runs: int, apart: float) -> dict[str, int]:
    """Runs that sleep for a long time, each by its id with its time: the last ``apart`` seconds after the first."""
    rows = _parked(fleet, asleep, 10 * HOUR)
    with fleet.store.link() as link:
        first = fleet.store.now(link) + int(10 * HOUR * SECOND)
    due = {_id(number): first + int(apart * SECOND * number / runs) for number in range(runs)}

    def copied(table: str, row: dict[str, Any], number: int) -> dict[str, Any]:
        wake_at = due[_id(number)]
        times = {"run": {"wake_at": wake_at, "due_at": wake_at - HORIZON}, "step": {"wake_at": wake_at}}
        return row | times.get(table, {})

    _copy(fleet.store, rows, runs, copied)
    return due


def bring_forward(fleet: Fleet, due: dict[str, int], first_after: float) -> dict[str, int]:
    """Let the first of these sleeping runs be due after so many seconds, and the others with it."""
    run, step = fleet.store.tables.run, fleet.store.tables.step
    with fleet.store.link() as link:
        earlier = min(due.values()) - fleet.store.now(link) - int(first_after * SECOND)
    with fleet.store.engine.connect() as connection:
        connection.execute(update(step).values(wake_at=step.c.wake_at - earlier))
        connection.execute(update(run).values(wake_at=run.c.wake_at - earlier, due_at=run.c.due_at - earlier))
        take_stock(fleet.store, connection)
    return {run_id: at - earlier for run_id, at in due.items()}


def park_waiting(fleet: Fleet, runs: int, *, keys: bool) -> list[str]:
    """Runs that wait for an event, all for the same, or each with a key of its own; their keys."""
    rows = _parked(fleet, waiting, _KEY if keys else None)

    def copied(table: str, row: dict[str, Any], number: int) -> dict[str, Any]:
        if not keys:
            return row
        row = {name: _renamed(value, number) for name, value in row.items()}
        return row | {"input_hash": fingerprint(row["input"])} if table == "step" else row

    _copy(fleet.store, rows, runs, copied)
    return [_renamed(_KEY, number) for number in range(runs)]


def _id(number: int) -> str:
    return f"run-{number:07}"


def _renamed(value: Any, number: int) -> Any:
    return value.replace(_KEY, f"key-{number:07}") if isinstance(value, str) else value


def _parked(fleet: Fleet, task: Any, given: Any) -> dict[str, dict[str, Any]]:
    """The rows of a run of this task that a worker has parked. They are taken out of the database."""
    store = fleet.store
    with fleet.workers(1, 1):
        task.delay(given)
        until(lambda: fleet.count("suspended") == 1, PATIENCE)
    found = {}
    with store.engine.connect() as connection:
        for name in ("run", "input", "step", "wait"):
            table = getattr(store.tables, name)
            rows = [dict(row) for row in connection.execute(select(table)).mappings()]
            connection.execute(delete(table))
            if rows:
                (found[name],) = rows
    return found


def _copy(store: Store, rows: dict[str, dict[str, Any]], runs: int, copied: Any) -> None:
    with store.link() as link:
        for start in range(0, runs, _BATCH):
            numbers = range(start, min(runs, start + _BATCH))

            def fill(connection: Any, numbers: range = numbers) -> None:
                with link.atomic(connection):
                    for name, row in rows.items():
                        own = "id" if name == "run" else "run_id"
                        made = [copied(name, row | {own: _id(number)}, number) for number in numbers]
                        connection.execute(insert(getattr(store.tables, name)), made)

            link.run(fill)
    with store.engine.connect() as connection:
        take_stock(store, connection)
