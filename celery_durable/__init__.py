"""Durable multi-step workflows on the Celery you already run.

>>> @app.task(base=DurableTask)                                             # doctest: +SKIP
... def onboard(user_id):
...     user = step.run("create-user", create_user, user_id)
...     step.sleep("a-day", "24h")
...     step.run("remind", send_reminder, user["email"])
"""

from .core.retry import Retry
from .engine.block import Future
from .engine.verbs import step
from .errors import (
    CallFailed,
    ConfigurationError,
    DuplicateStep,
    DurableError,
    EventConflict,
    EventNotFound,
    EventTimeout,
    HistoryMismatch,
    NonRetryable,
    NotInDurableTask,
    NotSerializable,
    PayloadTooLarge,
    RetryAfter,
    RunCancelled,
    RunNotFound,
    StartConflict,
    StepCancelled,
    StepFailed,
    StepInterrupted,
    StepTimeout,
    TooManySteps,
    WrongStatus,
)
from .model import Event, EventReceipt, EventRecord, Run, StepRecord
from .worker.connecting import connect
from .worker.durable import Durable
from .worker.emitting import emit
from .worker.schedules import on_schedule
from .worker.task import DurableTask
from .worker.triggers import on_event

__all__ = [
    "CallFailed",
    "ConfigurationError",
    "DuplicateStep",
    "Durable",
    "DurableError",
    "DurableTask",
    "Event",
    "EventConflict",
    "EventNotFound",
    "EventReceipt",
    "EventRecord",
    "EventTimeout",
    "Future",
    "HistoryMismatch",
    "NonRetryable",
    "NotInDurableTask",
    "NotSerializable",
    "PayloadTooLarge",
    "Retry",
    "RetryAfter",
    "Run",
    "RunCancelled",
    "RunNotFound",
    "StartConflict",
    "StepCancelled",
    "StepFailed",
    "StepInterrupted",
    "StepRecord",
    "StepTimeout",
    "TooManySteps",
    "WrongStatus",
    "connect",
    "emit",
    "on_event",
    "on_schedule",
    "step",
]

__version__ = "0.1.0"
