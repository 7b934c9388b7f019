"""What a user reads back: runs, steps and errors, as data without behaviour."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from .statuses import FINISHED, RunStatus, SchemaState, StepStatus

__all__ = [
    "FINISHED",
    "Activity",
    "AttemptRecord",
    "AuditRecord",
    "Check",
    "ErrorInfo",
    "Event",
    "EventReceipt",
    "EventRecord",
    "Handled",
    "Health",
    "LateRun",
    "LogRecord",
    "Misfit",
    "Page",
    "Period",
    "Progress",
    "Run",
    "RunStatus",
    "SchemaState",
    "Stats",
    "StepRecord",
    "StepStatus",
    "TaskInfo",
    "WorkerInfo",
    "Workload",
]

T = TypeVar("T")


class ErrorInfo(BaseModel):
    """An error as it was recorded."""

    model_config = ConfigDict(frozen=True)

    type: str
    message: str
    traceback: str | None = None
    notes: tuple[str, ...] = ()


class AttemptRecord(BaseModel):
    """An attempt of a step that failed, and after which it was tried again."""

    model_config = ConfigDict(frozen=True)

    number: int
    """Counted on where a person has had the run retried and the step has all its attempts again."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: ErrorInfo


class StepRecord(BaseModel):
    """One step of a run as it was recorded."""

    model_config = ConfigDict(frozen=True)

    id: str
    position: int
    kind: str
    function: str | None = None
    status: StepStatus
    input: Any = None
    result: Any = None
    error: ErrorInfo | None = None
    attempts: int = 0
    tries: tuple[AttemptRecord, ...] = ()
    """The failed attempts after which it was tried again, or is to be: the newest 20, without tracebacks."""
    block: str | None = None
    """The blocks of ``step.parallel``, ``step.race`` and ``step.map`` that it was a branch of, outermost first: each by
    its kind and the position of its first branch, as in ``parallel:4/race:6``. ``None`` in an ``async def`` body."""
    heartbeat: Any = None
    child: str | None = None
    """The run, or the ordinary task, that the step has called."""
    seen: int | None = None
    """The place of its answer in the order in which the body got its answers."""
    wake_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


class Progress(BaseModel):
    """What ``step.set_progress`` said last."""

    model_config = ConfigDict(frozen=True)

    value: Any = None
    total: Any = None
    note: str | None = None


class AuditRecord(BaseModel):
    """Who did what to a run, when and why."""

    model_config = ConfigDict(frozen=True)

    run_id: str | None
    action: str
    actor: str
    reason: str | None = None
    at: datetime
    details: Any = None


class LogRecord(BaseModel):
    """A line that a run said by ``get_logger``."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    level: int
    logger: str
    step_id: str | None = None
    message: str


class Handled(BaseModel):
    """What an operation on many runs did to one of them."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    done: bool
    why_not: str | None = None


class Misfit(BaseModel):
    """A run that the code as it is now does not fit."""

    model_config = ConfigDict(frozen=True)

    run_id: str
    task: str
    status: RunStatus
    why: str


class Check(BaseModel):
    """What ``Durable.check`` found."""

    model_config = ConfigDict(frozen=True)

    checked: int
    misfits: tuple[Misfit, ...] = ()


class Stats(BaseModel):
    """Figures about all runs."""

    model_config = ConfigDict(frozen=True)

    statuses: dict[str, int]
    tasks: dict[str, dict[str, int]]
    """By task the number of runs of each status."""
    queued: int = 0
    """Runs that stand in line because of their task's ``concurrency``."""
    undispatched_events: int = 0
    lag: float = 0.0
    """Seconds since which the run is due that should have gone on first."""
    sweeper: str | None = None
    """The worker that sweeps; ``None``: no worker does."""


class TaskInfo(BaseModel):
    """A durable task as it is registered in this process."""

    model_config = ConfigDict(frozen=True)

    name: str
    doc: str | None = None
    parameters: dict[str, Any]
    """The JSON schema of its arguments, by name."""
    triggers: tuple[str, ...] = ()
    """What starts it, in words."""
    step_retry: str
    run_timeout: str | None = None
    concurrency: str | None = None
    retention: str | None = None
    queue: str | None = None
    """The queue that its messages go to, where the task or a route names one."""


class Period(BaseModel):
    """What became of the runs that were made in a stretch of time."""

    model_config = ConfigDict(frozen=True)

    since: datetime
    until: datetime
    statuses: dict[str, int]
    """How many there are of each status."""
    p50: float | None = None
    """Seconds from their beginning to their end, of those that completed: the median."""
    p95: float | None = None


class Activity(BaseModel):
    """Runs over time, oldest period first."""

    model_config = ConfigDict(frozen=True)

    periods: tuple[Period, ...]
    sampled: bool = False
    """There were too many: only the newest ones are counted, from ``counted_since`` on."""
    counted_since: datetime | None = None


class WorkerInfo(BaseModel):
    """A worker process that executes runs now, or sweeps."""

    model_config = ConfigDict(frozen=True)

    name: str
    runs: tuple[str, ...] = ()
    """Some of the runs that it executes."""
    runs_total: int = 0
    lease_until: datetime | None = None
    """When the first of its leases ends, unless it extends it."""
    sweeps: bool = False


class Workload(BaseModel):
    """Who executes runs, and how much waits to be executed."""

    model_config = ConfigDict(frozen=True)

    clock: datetime
    """What time it is by the database."""
    workers: tuple[WorkerInfo, ...] = ()
    sweeper: str | None = None
    sweeper_until: datetime | None = None
    """When its lease ends, unless it extends it."""
    due: int = 0
    """Runs whose time has come and that no worker has, up to 10,000."""
    lag: float = 0.0
    """Seconds since which the first of them is due."""
    asleep: int = 0
    """Runs that wait for a time to come, up to 10,000."""
    queued: int = 0
    """Runs that stand in line because of their task's ``concurrency``."""
    undispatched_events: int = 0
    event_lag: float = 0.0


class LateRun(BaseModel):
    """A run whose time has come, or is near, and that no worker has."""

    model_config = ConfigDict(frozen=True)

    id: str
    task: str
    status: RunStatus
    worker: str | None = None
    """The worker that has, or had, it."""
    sends: int = 0
    """How often its message was sent since it is to go on."""
    late: float
    """Seconds since which somebody should have looked at it; below zero: that is still to come."""


class Health(BaseModel):
    """What tells whether runs go on as they should."""

    model_config = ConfigDict(frozen=True)

    clock: datetime
    """What time it is by the database, whose clock decides what is due."""
    sweeper: str | None = None
    """The worker that sweeps; ``None``: no worker does."""
    paused: int = 0
    """Runs that wait for a person."""
    queued: int = 0
    """Runs that stand in line because of their task's ``concurrency``."""
    event_lag: float = 0.0
    """Seconds since which the event is due that should have been dispatched first."""
    late: tuple[LateRun, ...] = ()
    """The first runs by the time at which somebody should look at them."""


class Run(BaseModel):
    """One run of a durable task."""

    model_config = ConfigDict(frozen=True)

    id: str
    task: str
    status: RunStatus
    args: Any = None
    kwargs: Any = None
    result: Any = None
    error: ErrorInfo | None = None
    waiting_on: str | None = None
    wake_at: datetime | None = None
    cancelling: str | None = None
    """Why it is being cancelled, while its body cleans up."""
    deadline_at: datetime | None = None
    """When its ``run_timeout`` is up."""
    progress: Progress | None = None
    passes: int = 0
    retries: int = 0
    recoveries: int = 0
    generation: int = 0
    """How often it has continued as new."""
    restarts: int = 0
    """How often it was retried by hand after it had failed."""
    worker: str | None = None
    code_version: str | None = None
    parent: str | None = None
    """The run that has called this one."""
    parent_step: str | None = None
    children: tuple[str, ...] = ()
    """The runs and ordinary tasks that this one has called, in the order of their starts."""
    forked_from: str | None = None
    forked_at: str | None = None
    """The step before which it was forked."""
    replayed_from: str | None = None
    copies: tuple[str, ...] = ()
    """The forks and replays of this run."""
    started_by: str | None = None
    """The event that started it."""
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    delivered_at: datetime | None = None
    steps: tuple[StepRecord, ...] = ()
    audit: tuple[AuditRecord, ...] = ()
    """What was done to it from outside."""


class Event(BaseModel):
    """An event, as a body gets it from ``step.wait_for_event`` or as the argument of a run that it started."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    key: str | None = None
    payload: Any = None
    emitted_at: datetime


class EventReceipt(BaseModel):
    """What ``emit`` gives back."""

    model_config = ConfigDict(frozen=True)

    id: str
    duplicate: bool = False
    """This event had been emitted before under the same ``event_id``, and counts once."""


class EventRecord(Event):
    """An event in the log, with what it did."""

    emitted_by: str | None = None
    """The run whose ``step.emit`` it comes from."""
    dispatched_at: datetime | None = None
    woke: tuple[str, ...] = ()
    """The runs whose wait took it, oldest first; in a page of many events at most the first 100 of each."""
    started: tuple[str, ...] = ()
    """The runs that it started, cut in the same way."""
    woke_total: int = 0
    started_total: int = 0
    error: str | None = None
    """Why a task that it triggers could not be started."""


class Page(tuple[T, ...], Generic[T]):
    """Some of a long list. ``next`` is what to hand over as ``after`` to go on, and ``None`` at the end."""

    next: str | None

    def __new__(cls, items: Iterable[T] = (), next: str | None = None) -> Page[T]:
        page = super().__new__(cls, items)
        page.next = next
        return page
