"""The tables.

All times are microseconds since the epoch (UTC), so that they mean and compare the same everywhere.
``run`` is written at every step and therefore narrow: what a run was started with is in ``input``.

One column drives everything that time brings about: ``run.due_at`` is the moment at which the sweeper
has to look at the run, unless somebody changes the row before. It is, by status:

* pending, suspended: when its message has to be sent (again); none while it waits for an event only
* running: when the worker's lease ends
* completed, failed: when its result has to be delivered by another worker; none once it is

``keep_until`` is when a finished run is forgotten with all its rows.

``recoveries`` counts the workers that died executing the run since it last recorded a step; ``progress`` is
the number of steps there were at the last of these deaths.

A run that another one calls names that one and its step (``parent_id``, ``parent_step``), and the step names the
run (``child``): the two are one fact, written in one transaction, as is the end of the one with the answer of the
other. Its ``kind`` is ``task`` where it is an ordinary Celery task, which no worker claims and whose end is reported.
``quorum`` is how many calls are to end before a parked run has anything to do, ``cancelling`` why it is to be
cancelled.

``generation`` counts how often the run has continued as new, ``restarts`` how often a person has had it retried: what
it calls gets ids of its own each time. ``deadline_at`` is when its ``run_timeout`` is up, ``blamed`` names the failed
steps that it failed of, ``reported`` is what ``step.set_progress`` said last. ``origin_id`` is the run that this one is
a copy of: up to ``origin_step`` (a fork), or of its input alone (a replay).

``resource`` is what a run with a ``concurrency`` needs a share of while it is executed, ``queued_at`` when it got into
the line for it. Nothing else is kept of that: who is executed has a share.

``turn`` has a row for each ``step.lock`` that is held (``until`` then) or waited for. ``state`` is what ``step.state``
holds, ``audit`` who did what to which run, ``log`` what ``get_logger`` was told where that is kept.

``step.seen`` tells in which order the body was given its answers: the order in which a replay gives them. ``block``
names the blocks that a step is a branch of, ``tries`` holds its failed attempts before the last one.

``event.due_at`` is likewise when the sweeper has to see to it that an event is dispatched; none once it is. ``wait``
has a row for each wait that is still open, ``taken`` one for each event that a run has had: by a wait (``step_id``),
or because it was started by it.

``wake_at`` is the moment before which a run is not to be taken: the end of its sleep, or of the time that
the worker which finished it has for delivering the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.types import TypeEngine

from ..core.ids import MAX_ID
from .said import Said
from .sealing import Sealed, Sealer

__all__ = ["GATES", "Tables", "bounded", "counter", "said", "unbounded"]


GATES = tuple(f"gate-{number:03}" for number in range(256))
"""Rows of ``lease`` on MySQL that are locked and never changed: see ``statements/events.py``."""


def _mysql() -> Any:
    """Imported when the first tables are made: a process that only declares tasks has none."""
    return import_module("sqlalchemy.dialects.mysql")


def bounded(length: int) -> TypeEngine[str]:
    """A short string that is compared byte by byte in every database."""
    binary = _mysql().VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return String(length).with_variant(binary, "mysql", "mariadb")


def said(length: int) -> TypeEngine[str]:
    """A short text for people, of whatever somebody has written: an error's message, a reason."""
    return Said(bounded(length))


def unbounded() -> Text:
    """A text of any length. It is ASCII (JSON with escapes), so no character set can spoil it."""
    return Text().with_variant(_mysql().LONGTEXT(charset="ascii"), "mysql", "mariadb")


def counter() -> TypeEngine[int]:
    """A primary key that the database counts up."""
    return BigInteger().with_variant(Integer, "sqlite")


@dataclass(frozen=True)
class Tables:
    """The tables of one store, with its prefix and its sealer."""

    metadata: MetaData
    run: Table
    input: Table
    step: Table
    lease: Table
    event: Table
    wait: Table
    taken: Table
    state: Table
    turn: Table
    audit: Table
    log: Table

    @classmethod
    def build(cls, prefix: str, sealer: Sealer | None = None) -> Tables:
        metadata = MetaData()
        payload: TypeEngine[str] = unbounded() if sealer is None else Sealed(unbounded(), sealer)
        return cls(
            metadata,
            _run(prefix, metadata, payload),
            _input(prefix, metadata, payload),
            _step(prefix, metadata, payload),
            _lease(prefix, metadata),
            _event(prefix, metadata, payload),
            _wait(prefix, metadata, payload),
            _taken(prefix, metadata),
            _state(prefix, metadata, payload),
            _turn(prefix, metadata),
            _audit(prefix, metadata, payload),
            _log(prefix, metadata, payload),
        )


def _run(prefix: str, metadata: MetaData, payload: TypeEngine[str]) -> Table:
    run = Table(
        f"{prefix}run",
        metadata,
        Column("id", bounded(MAX_ID), primary_key=True),
        Column("task", bounded(255), nullable=False),
        Column("status", bounded(12), nullable=False),
        Column("token", BigInteger, nullable=False),
        Column("due_at", BigInteger),
        Column("wake_at", BigInteger),
        Column("waiting_on", said(500)),
        Column("worker", said(255)),
        Column("sends", Integer, nullable=False),
        Column("passes", Integer, nullable=False),
        Column("retries", Integer, nullable=False),
        Column("recoveries", Integer, nullable=False),
        Column("progress", Integer, nullable=False),
        Column("input_hash", bounded(32), nullable=False),
        Column("code_version", bounded(64)),
        Column("parent_id", bounded(MAX_ID)),
        Column("parent_step", bounded(MAX_ID)),
        Column("kind", bounded(12)),
        Column("quorum", Integer),
        Column("cancelling", said(500)),
        Column("generation", Integer),
        Column("restarts", Integer),
        Column("origin_id", bounded(MAX_ID)),
        Column("origin_step", bounded(MAX_ID)),
        Column("deadline_at", BigInteger),
        Column("resource", bounded(255)),
        Column("queued_at", BigInteger),
        Column("keep_until", BigInteger),
        Column("created_at", BigInteger, nullable=False),
        Column("started_at", BigInteger),
        Column("finished_at", BigInteger),
        Column("delivered_at", BigInteger),
        Column("blamed", unbounded()),
        Column("reported", payload),
        Column("result", payload),
        Column("error", payload),
    )
    _partial_index(f"ix_{prefix}run_due", run.c.due_at)
    # With all that a count or a page's places ask of a run: no row is read for them.
    places = (run.c.created_at, run.c.id, run.c.kind)
    Index(f"ix_{prefix}run_status", run.c.status, *places)
    Index(f"ix_{prefix}run_task", run.c.task, run.c.status, *places)
    Index(f"ix_{prefix}run_parent", run.c.parent_id)
    Index(f"ix_{prefix}run_created", run.c.created_at, run.c.id)
    _partial_index(f"ix_{prefix}run_origin", run.c.origin_id)
    _partial_index(f"ix_{prefix}run_resource", run.c.resource, run.c.status)
    _partial_index(f"ix_{prefix}run_queued", run.c.queued_at)
    _partial_index(f"ix_{prefix}run_keep", run.c.keep_until)
    return run


def _partial_index(name: str, column: Column[Any], *more: Column[Any]) -> Index:
    """An index of the rows alone that have a value in its first column, where the database has such."""
    there = column.is_not(None)
    return Index(name, column, *more, postgresql_where=there, sqlite_where=there)


def _input(prefix: str, metadata: MetaData, payload: TypeEngine[str]) -> Table:
    return Table(
        f"{prefix}input",
        metadata,
        Column("run_id", bounded(MAX_ID), primary_key=True),
        Column("arguments", payload, nullable=False),
        Column("message", payload, nullable=False),
    )


def _step(prefix: str, metadata: MetaData, payload: TypeEngine[str]) -> Table:
    return Table(
        f"{prefix}step",
        metadata,
        Column("run_id", bounded(MAX_ID), primary_key=True),
        Column("id", bounded(MAX_ID), primary_key=True),
        Column("position", Integer, nullable=False),
        Column("kind", bounded(20), nullable=False),
        Column("function", bounded(255)),
        Column("status", bounded(12), nullable=False),
        Column("input", payload),
        Column("input_hash", bounded(32), nullable=False),
        Column("result", payload),
        Column("error", payload),
        Column("attempts", Integer, nullable=False),
        Column("wake_at", BigInteger),
        Column("heartbeat", payload),
        Column("child", bounded(MAX_ID)),
        Column("seen", Integer),
        Column("started_at", BigInteger),
        Column("finished_at", BigInteger),
        Column("block", bounded(MAX_ID)),
        Column("tries", payload),
    )


def _lease(prefix: str, metadata: MetaData) -> Table:
    return Table(
        f"{prefix}lease",
        metadata,
        Column("name", bounded(100), primary_key=True),
        Column("holder", bounded(255), nullable=False),
        Column("until", BigInteger, nullable=False),
    )


def _event(prefix: str, metadata: MetaData, payload: TypeEngine[str]) -> Table:
    event = Table(
        f"{prefix}event",
        metadata,
        Column("seq", counter(), primary_key=True, autoincrement=True),
        Column("id", bounded(MAX_ID), nullable=False),
        Column("name", bounded(MAX_ID), nullable=False),
        Column("key", bounded(MAX_ID)),
        Column("payload", payload, nullable=False),
        Column("content_hash", bounded(32), nullable=False),
        Column("emitted_at", BigInteger, nullable=False),
        Column("emitted_by", bounded(MAX_ID)),
        Column("due_at", BigInteger),
        Column("sends", Integer, nullable=False),
        Column("dispatched_at", BigInteger),
        Column("error", payload),
    )
    Index(f"ix_{prefix}event_id", event.c.id, unique=True)
    _partial_index(f"ix_{prefix}event_due", event.c.due_at)
    Index(f"ix_{prefix}event_key", event.c.name, event.c.key, event.c.emitted_at)
    Index(f"ix_{prefix}event_name", event.c.name, event.c.emitted_at)
    return event


def _wait(prefix: str, metadata: MetaData, payload: TypeEngine[str]) -> Table:
    wait = Table(
        f"{prefix}wait",
        metadata,
        Column("run_id", bounded(MAX_ID), primary_key=True),
        Column("step_id", bounded(MAX_ID), primary_key=True),
        Column("name", bounded(MAX_ID), nullable=False),
        Column("key", bounded(MAX_ID)),
        Column("match", payload),
        Column("since", BigInteger, nullable=False),
    )
    Index(f"ix_{prefix}wait_key", wait.c.name, wait.c.key)
    return wait


def _taken(prefix: str, metadata: MetaData) -> Table:
    taken = Table(
        f"{prefix}taken",
        metadata,
        Column("run_id", bounded(MAX_ID), primary_key=True),
        Column("event", BigInteger, primary_key=True, autoincrement=False),
        Column("step_id", bounded(MAX_ID)),
        Column("taken_at", BigInteger, nullable=False),
    )
    Index(f"ix_{prefix}taken_event", taken.c.event)
    return taken


def _state(prefix: str, metadata: MetaData, payload: TypeEngine[str]) -> Table:
    state = Table(
        f"{prefix}state",
        metadata,
        Column("task", bounded(255), primary_key=True),
        Column("key", bounded(MAX_ID), primary_key=True),
        Column("value", payload),
        Column("version", BigInteger, nullable=False),
        Column("expires_at", BigInteger),
    )
    _partial_index(f"ix_{prefix}state_expires", state.c.expires_at)
    return state


def _turn(prefix: str, metadata: MetaData) -> Table:
    turn = Table(
        f"{prefix}turn",
        metadata,
        Column("run_id", bounded(MAX_ID), primary_key=True),
        Column("step_id", bounded(MAX_ID), primary_key=True),
        Column("name", bounded(MAX_ID), nullable=False),
        Column("asked_at", BigInteger, nullable=False),
        Column("ttl", BigInteger),
        Column("until", BigInteger),
    )
    Index(f"ix_{prefix}turn_name", turn.c.name, turn.c.asked_at)
    return turn


def _audit(prefix: str, metadata: MetaData, payload: TypeEngine[str]) -> Table:
    audit = Table(
        f"{prefix}audit",
        metadata,
        Column("seq", counter(), primary_key=True, autoincrement=True),
        Column("run_id", bounded(MAX_ID)),
        Column("action", bounded(20), nullable=False),
        Column("actor", said(255), nullable=False),
        Column("reason", said(500)),
        Column("at", BigInteger, nullable=False),
        Column("details", payload),
    )
    Index(f"ix_{prefix}audit_run", audit.c.run_id)
    return audit


def _log(prefix: str, metadata: MetaData, payload: TypeEngine[str]) -> Table:
    return Table(
        f"{prefix}log",
        metadata,
        Column("run_id", bounded(MAX_ID), primary_key=True),
        Column("place", bounded(100), primary_key=True),
        Column("step_id", bounded(MAX_ID)),
        Column("at", BigInteger, nullable=False),
        Column("level", Integer, nullable=False),
        Column("logger", said(255), nullable=False),
        Column("message", payload, nullable=False),
    )
