"""Durable multi-step workflows on the Celery you already run.

>>> @app.task(base=DurableTask)                                             # doctest: +SKIP
... def onboard(user_id):
...     user = step.run("create-user", create_user, user_id)
...     step.sleep("a-day", "24h")
...     step.run("remind", send_reminder, user["email"])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import (
    CallFailed,
    ConfigurationError,
    DamagedRecord,
    DuplicateStep,
    DurableError,
    EventConflict,
    EventNotFound,
    EventTimeout,
    HistoryMismatch,
    InvalidAnswer,
    NonRetryable,
    NotInDurableTask,
    NotSerializable,
    PayloadTooLarge,
    RetryAfter,
    RunCancelled,
    RunNotFound,
    RunTimeout,
    StartConflict,
    StepCancelled,
    StepFailed,
    StepInterrupted,
    StepNotFound,
    StepTimeout,
    TaskNotFound,
    TooManySteps,
    WrongStatus,
)

if TYPE_CHECKING:
    from .core.concurrency import Concurrency
    from .core.retry import Retry
    from .engine.block import Future
    from .engine.saying import get_logger
    from .engine.verbs import step
    from .model import (
        AuditRecord,
        Event,
        EventReceipt,
        EventRecord,
        Handled,
        LogRecord,
        Progress,
        Run,
        Stats,
        StepRecord,
    )
    from .worker.connecting import connect
    from .worker.durable import Durable
    from .worker.emitting import emit
    from .worker.schedules import on_schedule
    from .worker.task import DurableTask
    from .worker.triggers import on_event

__all__ = [
    "AuditRecord",
    "CallFailed",
    "Concurrency",
    "ConfigurationError",
    "DamagedRecord",
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
    "Handled",
    "HistoryMismatch",
    "InvalidAnswer",
    "LogRecord",
    "NonRetryable",
    "NotInDurableTask",
    "NotSerializable",
    "PayloadTooLarge",
    "Progress",
    "Retry",
    "RetryAfter",
    "Run",
    "RunCancelled",
    "RunNotFound",
    "RunTimeout",
    "StartConflict",
    "Stats",
    "StepCancelled",
    "StepFailed",
    "StepInterrupted",
    "StepNotFound",
    "StepRecord",
    "StepTimeout",
    "TaskNotFound",
    "TooManySteps",
    "WrongStatus",
    "connect",
    "emit",
    "get_logger",
    "on_event",
    "on_schedule",
    "step",
]

__version__ = "0.1.0"

_HOMES = {
    "core.concurrency": ("Concurrency",),
    "core.retry": ("Retry",),
    "engine.block": ("Future",),
    "engine.saying": ("get_logger",),
    "engine.verbs": ("step",),
    "model": (
        "AuditRecord",
        "Event",
        "EventReceipt",
        "EventRecord",
        "Handled",
        "LogRecord",
        "Progress",
        "Run",
        "Stats",
        "StepRecord",
    ),
    "worker.connecting": ("connect",),
    "worker.durable": ("Durable",),
    "worker.emitting": ("emit",),
    "worker.schedules": ("on_schedule",),
    "worker.task": ("DurableTask",),
    "worker.triggers": ("on_event",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: the package alone costs nothing, to pytest for instance, whose plugin it
    brings."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{home}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
