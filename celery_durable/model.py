"""What a user reads back: runs, steps and errors, as data without behaviour."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["FINISHED", "ErrorInfo", "Run", "RunStatus", "StepRecord", "StepStatus"]

RunStatus = Literal["pending", "running", "suspended", "paused", "completed", "failed", "cancelled"]
StepStatus = Literal["started", "waiting", "completed", "failed"]

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
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    delivered_at: datetime | None = None
    steps: tuple[StepRecord, ...] = ()
