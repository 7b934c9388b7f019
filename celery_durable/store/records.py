"""What goes into the store and comes out of it, as plain records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from ..core.replay import Record

__all__ = [
    "Claim",
    "Due",
    "Fence",
    "NewEvent",
    "NewRun",
    "NewWait",
    "NotClaimed",
    "Outcome",
    "Overtaken",
    "StepWrite",
    "StoredEvent",
]


@dataclass(frozen=True)
class NewRun:
    """A run about to be recorded for the first time."""

    id: str
    task: str
    arguments: str
    input_hash: str
    message: str
    wake_in: int | None = None
    due_in: int = 0
    retries: int = 0
    event: int | None = None
    """The event that starts it: it is taken by this run."""


class Fence(NamedTuple):
    """The right to write to a run: its id and its current token."""

    run_id: str
    token: int


@dataclass(frozen=True)
class Claim:
    """A run taken by this worker, with all that its pass needs."""

    fence: Fence
    now: int
    created_at: int
    retries: int
    recoveries: int
    passes: int
    wake_at: int | None
    message: str
    arguments: str
    history: dict[str, Record] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """A finished run whose result is for this worker to deliver."""

    task: str
    status: str
    result: str | None
    error: str | None


@dataclass(frozen=True)
class NotClaimed:
    """Why a message's run was not taken."""

    status: str | None
    """The run's status; ``None`` where there is no such run."""
    early_by: int = 0
    why: str = ""


@dataclass(frozen=True)
class StepWrite:
    """A step's row as it is to be."""

    id: str
    position: int
    kind: str
    status: str
    function: str | None = None
    input: str | None = None
    input_hash: str = ""
    result: str | None = None
    error: str | None = None
    attempts: int = 0
    wake_at: int | None = None
    heartbeat: str | None = None
    started_at: int | None = None
    finished_at: int | None = None
    known: bool = False
    """The step has a row already: it waited, or its start was recorded."""


@dataclass(frozen=True)
class Due:
    """A run that the sweeper has to look at."""

    fence: Fence
    task: str
    status: str
    due_at: int
    wake_at: int | None
    sends: int
    retries: int
    passes: int
    worker: str | None
    now: int
    arguments: str = "[[],{}]"
    message: str = ""


@dataclass(frozen=True)
class NewEvent:
    """An event about to be emitted. Its ``content_hash`` tells it from another one of the same id."""

    id: str
    name: str
    key: str | None
    payload: str
    content_hash: str
    emitted_by: str | None = None


class StoredEvent(NamedTuple):
    """An event that is emitted."""

    seq: int
    id: str
    name: str
    key: str | None
    payload: str
    emitted_at: int
    sends: int
    dispatched_at: int | None


@dataclass(frozen=True)
class NewWait:
    """What a step waits for: an event emitted since then, of this name, key and content."""

    name: str
    key: str | None
    match: str | None
    since: int


@dataclass(frozen=True)
class Overtaken:
    """The run was not parked: what it was about to wait for is there."""

    records: tuple[Record, ...] = ()
    """Steps that were settled from outside since this pass read them."""
    event: StoredEvent | None = None
    """The event that a new wait takes."""
