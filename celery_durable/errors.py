"""Every error that celery_durable raises.

    DurableError
    ├── NotInDurableTask     a verb was called where no run is being executed
    ├── DuplicateStep        one step id was used twice in one pass
    ├── HistoryMismatch      the code no longer fits what the run has recorded
    ├── DamagedRecord        something stored is not what this package has written
    ├── NotSerializable      a value can't be stored, or does not fit its annotation
    ├── PayloadTooLarge      a value is larger than durable_max_payload
    ├── TooManySteps         a run recorded more than durable_max_steps
    ├── StepFailed           a step's error whose own type can't be rebuilt
    ├── StepTimeout          one attempt of a step took longer than its timeout
    ├── StepInterrupted      the worker died inside an at_most_once step
    ├── StepCancelled        a branch was cancelled: a sibling failed, or its block was over without it
    ├── CallFailed           what a step called failed, and its own error can't be rebuilt; or it was cancelled
    ├── EventTimeout         no event came in time, and the wait says that this is an error
    ├── RunTimeout           the run took longer than its run_timeout
    ├── StartConflict        the id was started before, with other arguments
    ├── EventConflict        the event's id was emitted before, with other content
    ├── RunNotFound          there is no such run
    ├── EventNotFound        there is no such event
    ├── StepNotFound         the run has recorded no such step
    ├── TaskNotFound         no durable task of this name is registered here
    ├── InvalidAnswer        a person's answer does not fit what the step waits for
    ├── WrongStatus          the run's status does not allow the operation
    └── ConfigurationError   a setting, the schema or the wiring is wrong

    NonRetryable, RetryAfter   raised by the user's step to steer its retries
    RunCancelled               a BaseException: the run is cancelled, at the point that the body has reached

Each class has a stable ``code``; the page ``docs/errors.md`` has a section for each. All of them
take one message, so that they survive pickling and the durable record unchanged.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "CallFailed",
    "ConfigurationError",
    "DamagedRecord",
    "DuplicateStep",
    "DurableError",
    "EventConflict",
    "EventNotFound",
    "EventTimeout",
    "HistoryMismatch",
    "InvalidAnswer",
    "NonRetryable",
    "NotInDurableTask",
    "NotSerializable",
    "PayloadTooLarge",
    "RetryAfter",
    "RunCancelled",
    "RunNotFound",
    "RunTimeout",
    "StartConflict",
    "StepCancelled",
    "StepFailed",
    "StepInterrupted",
    "StepNotFound",
    "StepTimeout",
    "TaskNotFound",
    "TooManySteps",
    "WrongStatus",
    "add_note",
]


class DurableError(Exception):
    """Base of all errors that celery_durable raises."""

    code = "durable-error"


class NotInDurableTask(DurableError):
    """A durable verb was called where no run is being executed."""

    code = "not-in-durable-task"


class DuplicateStep(DurableError):
    """One step id was used twice in one pass."""

    code = "duplicate-step"


class HistoryMismatch(DurableError):
    """The code asks for something else than the run has recorded."""

    code = "history-mismatch"


class DamagedRecord(DurableError):
    """Something that is stored can't be read: it is not what this package has written."""

    code = "damaged-record"


class NotSerializable(DurableError):
    """A value can't be stored, or does not fit the annotation it must fit."""

    code = "not-serializable"


class PayloadTooLarge(DurableError):
    """A value is larger than ``durable_max_payload`` once encoded."""

    code = "payload-too-large"


class TooManySteps(DurableError):
    """A run recorded more steps than ``durable_max_steps``."""

    code = "too-many-steps"


class StepFailed(DurableError):
    """A step failed with an error whose own type can't be rebuilt from the record."""

    code = "step-failed"


class StepTimeout(DurableError):
    """One attempt of a step took longer than its ``timeout``."""

    code = "step-timeout"


class StepInterrupted(DurableError):
    """The worker died inside an ``at_most_once`` step: whether it took effect is not known."""

    code = "step-interrupted"


class StepCancelled(DurableError):
    """A branch was cancelled: a sibling failed for good, or its block was over without it."""

    code = "step-cancelled"


class CallFailed(DurableError):
    """What ``step.call`` called has failed with an error that can't be rebuilt here, or was cancelled."""

    code = "call-failed"


class EventTimeout(DurableError):
    """No event came in time, and the wait has ``on_timeout="fail"``."""

    code = "event-timeout"


class RunTimeout(DurableError):
    """The run took longer than its task's ``run_timeout``, waits included."""

    code = "run-timeout"


class StartConflict(DurableError):
    """A run of this id was started before, with other arguments or of another task."""

    code = "start-conflict"


class EventConflict(DurableError):
    """An event of this id was emitted before, with another name, key or payload."""

    code = "event-conflict"


class RunNotFound(DurableError):
    """There is no run of this id."""

    code = "run-not-found"


class EventNotFound(DurableError):
    """There is no event of this id (any more)."""

    code = "event-not-found"


class StepNotFound(DurableError):
    """The run has recorded no step of this id."""

    code = "step-not-found"


class TaskNotFound(DurableError):
    """No durable task of this name is registered in this process."""

    code = "task-not-found"


class InvalidAnswer(DurableError, ValueError):
    """An answer does not fit what the step waits for: its form, or its ``match``."""

    code = "invalid-answer"


class WrongStatus(DurableError):
    """The run's status does not allow the operation."""

    code = "wrong-status"


class ConfigurationError(DurableError):
    """A setting, the database schema or the wiring is wrong."""

    code = "configuration"


class RunCancelled(BaseException):
    """The run is cancelled. Raised in the body, which may clean up, with steps too; it can't be overruled."""


class RunOverdue(RunCancelled):
    """The same where the time of the run is up: it ends as failed, with ``RunTimeout``."""


class NonRetryable(Exception):
    """Raised by a step's function: fail now, whatever the retry policy says."""


class RetryAfter(Exception):
    """Raised by a step's function: try again after this delay instead of the policy's.

    Takes a duration as everywhere (``"30s"``, ``timedelta``, seconds). The policy still decides
    how many attempts there are.
    """

    def __init__(self, delay: Any, message: str = "") -> None:
        super().__init__(delay, message)
        self.delay = delay

    def __str__(self) -> str:
        return str(self.args[1]) or f"retry after {self.args[0]}"


def add_note(error: BaseException, note: str) -> None:
    """Attach a note to an error: ``BaseException.add_note`` for Python 3.10, too."""
    notes = getattr(error, "__notes__", None)
    if not isinstance(notes, list):
        notes = []
        error.__notes__ = notes  # type: ignore[attr-defined]
    notes.append(note)
