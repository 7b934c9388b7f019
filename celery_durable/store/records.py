"""What goes into the store and comes out of it, as plain records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..core.replay import Record

__all__ = [
    "DAMAGED",
    "AnswerText",
    "Aftermath",
    "Changes",
    "Claim",
    "Columns",
    "Deed",
    "Due",
    "Fence",
    "LogLine",
    "NewEvent",
    "NewRun",
    "NewTurn",
    "NewWait",
    "NotClaimed",
    "Origin",
    "Outcome",
    "Overtaken",
    "Parent",
    "StateChange",
    "StepWrite",
    "StoredEvent",
]

Columns = Mapping[Any, Any]
"""A row, by the names of its columns."""


DAMAGED = "damaged:"
"""What the reason of a run begins with whose record can't be read. A person has to mend it."""


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
    parent: Parent | None = None
    kind: str | None = None
    """``task``: an ordinary Celery task, which no worker claims; its end is reported."""
    origin: Origin | None = None
    deed: Deed | None = None
    """Who has started it by hand."""


class Origin(NamedTuple):
    """The run that another one is a copy of, up to a step or of its input alone."""

    run_id: str
    step_id: str | None = None


class Parent(NamedTuple):
    """The step that calls a run."""

    run_id: str
    step_id: str


class Fence(NamedTuple):
    """The right to write to a run: its id and its current token."""

    run_id: str
    token: int


@dataclass(frozen=True)
class Claim:
    """A run taken by this worker, with all that its pass needs."""

    fence: Fence
    now: int
    lease_until: int
    created_at: int
    started_at: int
    retries: int
    recoveries: int
    passes: int
    wake_at: int | None
    message: str
    arguments: str
    parent: Parent | None = None
    cancelling: str | None = None
    """Why the run is being cancelled, if it is."""
    generation: int = 0
    """How often the run has continued as new."""
    restarts: int = 0
    """How often a person has had it retried after it had failed."""
    deadline_at: int | None = None
    """When its ``run_timeout`` is up."""
    reported: str | None = None
    """What ``step.set_progress`` said last."""
    history: dict[str, Record] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """A finished run whose result is for this worker to deliver."""

    fence: Fence
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


class StepWrite(NamedTuple):
    """A step's row as it is to be. A tuple: some are made for every new step."""

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
    child: str | None = None
    seen: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    block: str | None = None
    """The blocks that it is a branch of. Written with a new row alone."""
    tries: str | None = None
    """Its failed attempts before the last one."""
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
    kind: str | None = None
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


class AnswerText(NamedTuple):
    """What an event has around it in the record of the wait that it answers, where the database puts that together."""

    before: str
    """What comes before its payload."""
    between: str
    """What comes between that and its time."""
    after: str


@dataclass(frozen=True)
class NewWait:
    """What a step waits for: an event emitted since then, of this name, key and content."""

    name: str
    key: str | None
    match: str | None
    since: int


@dataclass(frozen=True)
class NewTurn:
    """A lock that a step waits for, and for how long it may then be held."""

    name: str
    ttl: int | None = None


@dataclass(frozen=True)
class Changes:
    """What one transaction of a pass writes besides the run's own row."""

    steps: tuple[StepWrite, ...] = ()
    marks: tuple[tuple[str, int], ...] = ()
    """Steps that were settled from outside, each with the place at which the body was given its answer."""
    waits: tuple[tuple[str, NewWait], ...] = ()
    """Waits to be registered, each with its step."""
    calls: tuple[NewRun, ...] = ()
    """Runs to be started, which these steps call."""
    given_up: tuple[str, ...] = ()
    """Steps that are not waited for any more, unless they have an answer by now: then nothing of this is written."""
    withdrawn: tuple[str, ...] = ()
    """Of these the waits to be dropped."""
    cancelled: tuple[str, ...] = ()
    """Runs that were called, and that are to be cancelled."""
    turns: tuple[tuple[str, NewTurn], ...] = ()
    """Places in the lines for locks, each with its step."""
    left: tuple[str, ...] = ()
    """Of the steps that are given up those that stood in a line."""


@dataclass(frozen=True)
class Aftermath:
    """What is to be done about other runs, once a transaction is committed. All of it is due in the database, too."""

    wake: tuple[str, ...] = ()
    """Runs whose message is to be sent: they have something to do now."""
    revoke: tuple[str, ...] = ()
    """Ordinary tasks that were called and that nobody waits for any more."""
    freed: tuple[str, ...] = ()
    """Locks that were given back: the first in each line gets it."""

    def __add__(self, other: Aftermath) -> Aftermath:
        return Aftermath(self.wake + other.wake, self.revoke + other.revoke, self.freed + other.freed)


@dataclass(frozen=True)
class Overtaken:
    """The run was not parked: what it was about to wait for is there."""

    records: tuple[Record, ...] = ()
    """Steps that were settled from outside since this pass read them."""
    events: dict[str, StoredEvent] = field(default_factory=dict)
    """The events that new waits take, by their steps."""


class StateChange(NamedTuple):
    """What becomes of a value: the new one (``None``: it is deleted), and what the step that does it returns."""

    value: str | None
    result: str
    ttl: int | None = None
    keeps_ttl: bool = False


@dataclass(frozen=True)
class LogLine:
    """What a run said by its logger. Its place tells it from another line, also when it is said again."""

    place: str
    step_id: str | None
    at: int
    level: int
    logger: str
    message: str


@dataclass(frozen=True)
class Deed:
    """Who does what to a run, and why: a row of the audit log."""

    action: str
    actor: str
    reason: str | None = None
    details: str | None = None
