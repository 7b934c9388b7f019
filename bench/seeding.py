"""A database as it looks after a month of work: a million runs, made by the database itself out of a few.

One batch is made here, row by row; the others are copies of it, each a stretch of time further back, with ids of their
own. Only a batch has steps (the newest one), besides the waits that are open.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, insert, literal, select

from celery_durable.core.codec import encode
from celery_durable.core.duration import SECOND
from celery_durable.core.faults import write_error
from celery_durable.store.store import Store

__all__ = ["COMMON_TASK", "MANY_CHILDREN", "RARE_RUNS", "RARE_TASK", "TASKS", "seed", "take_stock"]

RARE_TASK = "shop.tasks.yearly_audit"
RARE_RUNS = 40
COMMON_TASK = "shop.tasks.onboard"
TASKS = (COMMON_TASK, *(f"shop.tasks.work_{number:02}" for number in range(18)))
MANY_CHILDREN = "a-run-that-calls-many"
APART = 2_600_000
"""Microseconds between one start and the next: a million of them are a month."""

_SHARES = (
    ("completed", 88.0), ("failed", 5.0), ("cancelled", 2.0), ("suspended", 4.0), ("paused", 0.3), ("pending", 0.5),
    ("running", 0.2),
)  # fmt: skip
_MESSAGE = json.dumps(
    {"type": "application/json", "encoding": "utf-8", "body": json.dumps({"queue": "celery"}), "base64": False}
)
_EVENTS = 50_000


def seed(store: Store, runs: int = 1_000_000, batch: int = 50_000) -> None:
    """Fill an empty store that is migrated."""
    luck = random.Random(7)
    batch = min(batch, runs)
    with store.link() as link:
        now = store.now(link)

        def fill(connection: Connection) -> None:
            with link.atomic(connection):
                _make_batch(store, connection, luck, now, batch)
            for number in range(1, runs // batch):
                with link.atomic(connection):
                    _copy_batch(store, connection, number, number * batch * APART, now - batch * APART)
            with link.atomic(connection):
                _make_rare(store, connection, luck, now, runs)
            take_stock(store, connection)

        link.run(fill)


def _make_batch(store: Store, connection: Connection, luck: random.Random, now: int, batch: int) -> None:
    of = store.tables
    made = [_a_run(luck, now - number * APART, number) for number in range(batch)]
    made[batch // 2] |= {"id": MANY_CHILDREN, "status": "suspended", "waiting_on": "2000 calls", "wake_at": None}
    for child in range(batch // 2 - 2_000, batch // 2):
        made[max(0, child)] |= {"parent_id": MANY_CHILDREN, "parent_step": f"call-{child}"}
    _insert(connection, of.run, made)
    _insert(connection, of.input, [_input(luck, run["id"]) for run in made])
    waiting = [run for run in made if (run["waiting_on"] or "").startswith("the event")]
    _insert(connection, of.wait, [_wait(run) for run in waiting])
    _insert(connection, of.step, [step for run in made for step in _steps(luck, run)])
    _insert(connection, of.event, [_event(luck, number, now) for number in range(1, _EVENTS + 1)])
    takers = [run["id"] for run in made if run["status"] == "completed"][:_EVENTS]
    taken = [
        {"run_id": run_id, "event": number, "step_id": "approved", "taken_at": now}
        for number, run_id in enumerate(takers, 1)
    ]
    _insert(connection, of.taken, taken)


def _insert(connection: Connection, table: Any, rows: list[dict[str, Any]]) -> None:
    for start in range(0, len(rows), 5_000):
        connection.execute(insert(table), rows[start : start + 5_000])


def _a_run(luck: random.Random, created: int, number: int, task: str | None = None) -> dict[str, Any]:
    status = luck.choices([name for name, _ in _SHARES], [share for _, share in _SHARES])[0]
    took = round(luck.lognormvariate(1.5, 1.2) * SECOND)
    ended = status in ("completed", "failed", "cancelled")
    error = None
    if status == "failed":
        frames = "".join(f'  File "/srv/shop/bank.py", line {line}, in charge\n    answer()\n' for line in range(25))
        error = write_error(ConnectionError(f"no answer from the bank to payment {number}: {frames}"))
    waits_for_event = status == "suspended" and number % 2 == 0
    asleep = status == "suspended" and not waits_for_event
    waiting = f"the event 'order.paid' with the key 'order-{number}'" if number % 4 else "the event 'approval'"
    said = {"suspended": waiting if waits_for_event else "its sleep", "paused": "paused: by ann", "pending": "a worker"}
    return {
        "id": str(uuid.UUID(int=luck.getrandbits(128))),
        "task": task or luck.choice((COMMON_TASK, *TASKS)),
        "status": status,
        "token": luck.getrandbits(62),
        "due_at": created + took + 86_400 * 30 * SECOND if asleep or status in ("pending", "running") else None,
        "wake_at": created + took + 86_400 * 30 * SECOND if asleep else None,
        "waiting_on": said.get(status),
        "worker": f"worker-{number % 8}@host-{number % 2}" if ended or status == "running" else None,
        "sends": 1,
        "passes": 0 if status == "pending" else 3,
        "retries": 0,
        "recoveries": 0,
        "progress": 0,
        "input_hash": f"{luck.getrandbits(96):024x}",
        "code_version": "0123456789abcdef",
        "parent_id": None,
        "parent_step": None,
        "kind": None,
        "quorum": None,
        "created_at": created,
        "started_at": None if status == "pending" else created + SECOND // 50,
        "finished_at": created + took if ended else None,
        "delivered_at": created + took + SECOND // 100 if ended else None,
        "keep_until": created + 60 * 86_400 * SECOND if ended else None,
        "result": encode({"onboarded": True, "receipt": "x" * 150, "number": number})
        if status == "completed"
        else None,
        "error": error,
    }


def _input(luck: random.Random, run_id: str) -> dict[str, Any]:
    given = {
        "user_id": f"u-{luck.randrange(10**7)}",
        "email": f"{luck.getrandbits(40):x}@example.com",
        "note": "y" * 150,
    }
    return {"run_id": run_id, "arguments": encode([[], given]), "message": _MESSAGE}


def _wait(run: dict[str, Any]) -> dict[str, Any]:
    _, name, *key = run["waiting_on"].split("'")[0::1][:2] + run["waiting_on"].split("'")[3:4]
    return {
        "run_id": run["id"], "step_id": "approved", "name": name, "key": key[0] if key else None, "match": None,
        "since": run["created_at"],
    }  # fmt: skip


def _steps(luck: random.Random, run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    at = run["created_at"]
    for position, name in enumerate(("create-user", "send-mail")):
        yield {
            "run_id": run["id"], "id": name, "position": position, "kind": "run", "function": f"shop.users.{name}",
            "status": "completed", "input": encode([[luck.randrange(10**6)], {}]), "input_hash": "0" * 24,
            "result": encode({"id": luck.randrange(10**6), "note": "z" * 80}), "attempts": 1, "wake_at": None,
            "started_at": at + position * SECOND, "finished_at": at + (position + 1) * SECOND,
        }  # fmt: skip
    if (run["waiting_on"] or "").startswith("the event"):
        wait = _wait(run)
        yield {
            "run_id": run["id"], "id": "approved", "position": 2, "kind": "wait", "function": None,
            "status": "waiting", "input": encode({"event": wait["name"], "key": wait["key"]}), "input_hash": "0" * 24,
            "result": None, "attempts": 1, "wake_at": None, "started_at": at + 2 * SECOND, "finished_at": None,
        }  # fmt: skip


def _event(luck: random.Random, number: int, now: int) -> dict[str, Any]:
    at = now - (_EVENTS - number) * APART
    return {
        "seq": number, "id": f"event-{number}", "name": ("order.paid", "customer.created", "approval")[number % 3],
        "key": f"order-{number}" if number % 3 == 0 else None, "payload": encode({"amount": luck.randrange(1000)}),
        "content_hash": f"{number:024x}", "emitted_at": at, "emitted_by": None, "due_at": None, "sends": 1,
        "dispatched_at": at + SECOND // 100, "error": None,
    }  # fmt: skip


def _copy_batch(store: Store, connection: Connection, number: int, back: int, since: int) -> None:
    """The batch once more, further back in time; an id differs from the original's by its beginning."""
    prefix = f"{number:03}"
    for name, times in (
        ("run", ("created_at", "started_at", "finished_at", "delivered_at")),
        ("input", ()),
        ("wait", ("since",)),
    ):
        table = getattr(store.tables, name)
        run_id = table.c.id if name == "run" else table.c.run_id

        def copied(column: Any, run_id: Any = run_id, times: tuple[str, ...] = times) -> Any:
            if column is run_id or column.name == "parent_id":
                return literal(prefix).concat(column)
            return column - back if column.name in times else column

        originals = select(*(copied(column) for column in table.c))
        if name == "run":
            originals = originals.where(table.c.created_at > since)
        else:
            of_batch = select(store.tables.run.c.id).where(store.tables.run.c.created_at > since)
            originals = originals.where(run_id.in_(of_batch))
        connection.execute(insert(table).from_select([column.name for column in table.c], originals))


def _make_rare(store: Store, connection: Connection, luck: random.Random, now: int, runs: int) -> None:
    """A task of few runs, the last of them long ago."""
    made = [_a_run(luck, now - (runs // 2 + number * 37) * APART - 1, number, RARE_TASK) for number in range(RARE_RUNS)]
    _insert(connection, store.tables.run, made)
    _insert(connection, store.tables.input, [_input(luck, run["id"]) for run in made])


def take_stock(store: Store, connection: Connection) -> None:
    """What a server does by itself before long. SQLite has nobody who would."""
    names = [table.name for table in store.tables.metadata.sorted_tables]
    if store.dialect.name == "postgresql":
        for name in names:
            connection.exec_driver_sql(f"VACUUM ANALYZE {name}")
    elif store.dialect.name == "mysql":
        connection.exec_driver_sql(f"ANALYZE TABLE {', '.join(names)}")
