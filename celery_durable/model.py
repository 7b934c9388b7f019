"""What a user reads back: runs, steps and errors, as data without behaviour."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

__all__ = [
    "FINISHED",
    "ErrorInfo",
    "Event",
    "EventReceipt",
    "EventRecord",
    "Page",
    "Run",
    "RunStatus",
    "StepRecord",
    "StepStatus",
]

T = TypeVar("T")

RunStatus = Literal["pending", "running", "suspended", "paused", "completed", "failed", "cancelled"]
StepStatus = Literal["started", "waiting", "completed", "failed", "cancelled"]

FINISHED: frozenset[str] = frozenset({"completed", "failed", "cancelled"})


class ErrorInfo(BaseModel):
    """An error as it was recorded."""

    model_config = ConfigDict(frozen=True)

    type: str
    message: str
    traceback: str | None = None
    notes: tuple[str, ...] = ()


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
    heartbeat: Any = None
    child: str | None = None
    """The run, or the ordinary task, that the step has called."""
    seen: int | None = None
    """The place of its answer in the order in which the body got its answers."""
    wake_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


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
    passes: int = 0
    retries: int = 0
    recoveries: int = 0
    worker: str | None = None
    code_version: str | None = None
    parent: str | None = None
    """The run that has called this one."""
    parent_step: str | None = None
    children: tuple[str, ...] = ()
    """The runs and ordinary tasks that this one has called, in the order of their starts."""
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    delivered_at: datetime | None = None
    steps: tuple[StepRecord, ...] = ()


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
