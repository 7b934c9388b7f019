"""The tables.

All times are microseconds since the epoch (UTC), so that they mean and compare the same everywhere.
``run`` is written at every step and therefore narrow: what a run was started with is in ``input``.

One column drives everything that time brings about: ``run.due_at`` is the moment at which the sweeper
has to look at the run, unless somebody changes the row before. It is, by status:

* pending, suspended: when its message has to be sent (again); none while it waits for an event only
* running: when the worker's lease ends
* completed, failed: when its result has to be delivered by another worker; none once it is

``recoveries`` counts the workers that died executing the run since it last recorded a step; ``progress`` is
the number of steps there were at the last of these deaths.

A run that another one calls names that one and its step (``parent_id``, ``parent_step``), and the step names the
run (``child``): the two are one fact, written in one transaction, as is the end of the one with the answer of the
other. Its ``kind`` is ``task`` where it is an ordinary Celery task, which no worker claims and whose end is reported.
``quorum`` is how many calls are to end before a parked run has anything to do, ``cancelling`` why it is to be
cancelled.

``step.seen`` tells in which order the body was given its answers: the order in which a replay gives them.

``event.due_at`` is likewise when the sweeper has to see to it that an event is dispatched; none once it is. ``wait``
has a row for each wait that is still open, ``taken`` one for each event that a run has had: by a wait (``step_id``),
or because it was started by it.

``wake_at`` is the moment before which a run is not to be taken: the end of its sleep, or of the time that
the worker which finished it has for delivering the result.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

from ..core.ids import MAX_ID
from .sealing import Sealed, Sealer

__all__ = ["GATES", "Tables", "bounded", "counter", "unbounded"]


GATES = tuple(f"gate-{number:03}" for number in range(256))
"""Rows of ``lease`` on MySQL that are locked and never changed: see ``statements/events.py``."""


def bounded(length: int) -> TypeEngine[str]:
    """A short string that is compared byte by byte in every database."""
    binary = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return String(length).with_variant(binary, "mysql", "mariadb")


def unbounded() -> Text:
    """A text of any length. It is ASCII (JSON with escapes), so no character set can spoil it."""
    return Text().with_variant(mysql.LONGTEXT(charset="ascii"), "mysql", "mariadb")


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
        Column("waiting_on", bounded(500)),
        Column("worker", bounded(255)),
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
        Column("cancelling", bounded(500)),
        Column("created_at", BigInteger, nullable=False),
        Column("started_at", BigInteger),
        Column("finished_at", BigInteger),
        Column("delivered_at", BigInteger),
        Column("result", payload),
        Column("error", payload),
    )
    due = run.c.due_at.is_not(None)
    Index(f"ix_{prefix}run_due", run.c.due_at, postgresql_where=due, sqlite_where=due)
    Index(f"ix_{prefix}run_status", run.c.status, run.c.created_at)
    Index(f"ix_{prefix}run_parent", run.c.parent_id)
    return run


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
    due = event.c.due_at.is_not(None)
    Index(f"ix_{prefix}event_id", event.c.id, unique=True)
    Index(f"ix_{prefix}event_due", event.c.due_at, postgresql_where=due, sqlite_where=due)
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
