"""Durable multi-step workflows on the Celery you already run.

>>> @app.task(base=DurableTask)                                             # doctest: +SKIP
... def onboard(user_id):
...     user = step.run("create-user", create_user, user_id)
...     step.sleep("a-day", "24h")
...     step.run("remind", send_reminder, user["email"])
"""

from .core.retry import Retry
from .engine.verbs import step
from .errors import (
    ConfigurationError,
    DuplicateStep,
    DurableError,
    HistoryMismatch,
    NonRetryable,
    NotInDurableTask,
    NotSerializable,
    PayloadTooLarge,
    RetryAfter,
    RunNotFound,
    StartConflict,
    StepFailed,
    StepInterrupted,
    StepTimeout,
    TooManySteps,
    WrongStatus,
)
from .model import Run, StepRecord
from .worker.durable import Durable
from .worker.task import DurableTask

__all__ = [
    "ConfigurationError",
    "DuplicateStep",
    "Durable",
    "DurableError",
    "DurableTask",
    "HistoryMismatch",
    "NonRetryable",
    "NotInDurableTask",
    "NotSerializable",
    "PayloadTooLarge",
    "Retry",
    "RetryAfter",
    "Run",
    "RunNotFound",
    "StartConflict",
    "StepFailed",
    "StepInterrupted",
    "StepRecord",
    "StepTimeout",
    "TooManySteps",
    "WrongStatus",
    "step",
]

__version__ = "0.1.0"
