"""Celery-style signals about runs and steps, for metrics and traces. The sender is the task.

They are sent in the process that executes a pass, once what they tell is committed. A worker that dies right then has
sent none: what has to be exact is in the database.
"""

from __future__ import annotations

import logging
from typing import Any

from celery.utils.dispatch import Signal

from ..core.duration import SECOND
from ..core.faults import summary
from ..model import ErrorInfo
from ..store.records import StepWrite

__all__ = [
    "notice",
    "run_finished",
    "run_paused",
    "run_resumed",
    "run_started",
    "run_suspended",
    "step_finished",
    "step_retried",
    "step_returned",
    "step_started",
]

logger = logging.getLogger("celery_durable")

run_started = Signal(name="run_started", providing_args={"run_id", "request"})
"""A run's body is executed for the first time."""
run_resumed = Signal(name="run_resumed", providing_args={"run_id", "request", "passes"})
"""It is executed again, from its first line, after it was parked or its worker died."""
run_suspended = Signal(name="run_suspended", providing_args={"run_id", "request", "waiting_on", "wake_at"})
"""A pass is over, and the run is not: it waits, or goes on elsewhere."""
run_paused = Signal(name="run_paused", providing_args={"run_id", "request", "waiting_on"})
"""A run was paused because its code does not fit it."""
run_finished = Signal(name="run_finished", providing_args={"run_id", "request", "status", "seconds", "error"})
"""A run has ended: ``completed``, ``failed`` or ``cancelled``, so many seconds after its first pass began."""
_OF_STEP = {"run_id", "request", "step_id", "kind", "attempt", "function", "error"}

step_started = Signal(name="step_started", providing_args=_OF_STEP)
"""A step's function is called; sent in the thread that calls it."""
step_returned = Signal(name="step_returned", providing_args=_OF_STEP)
"""It has returned or raised; sent in the same thread, before anything is recorded. ``error`` is what it raised."""
step_finished = Signal(name="step_finished", providing_args=_OF_STEP | {"status", "seconds"})
"""Its outcome is recorded: ``completed``, ``failed`` or ``cancelled``. ``error`` is an ``ErrorInfo``."""
step_retried = Signal(name="step_retried", providing_args=_OF_STEP | {"seconds"})
"""An attempt has failed, and there will be another one."""

_BY_NAME = {
    signal.name: signal
    for signal in (
        run_started,
        run_resumed,
        run_suspended,
        run_paused,
        run_finished,
        step_started,
        step_returned,
        step_finished,
        step_retried,
    )
}


def notice(what: str, task: Any, request: Any, step: StepWrite | None = None, **facts: Any) -> None:
    """Send a signal, if anybody listens. What a receiver raises is logged by Celery, and is not the run's concern."""
    signal = _BY_NAME[what]
    if signal.receivers:
        told = {} if step is None else _facts(what, step)
        signal.send(sender=task, run_id=request.id, request=request, **(told | facts))


def _facts(what: str, step: StepWrite) -> dict[str, Any]:
    facts: dict[str, Any] = {"step_id": step.id, "kind": step.kind, "attempt": step.attempts, "function": step.function}
    if what in ("step_finished", "step_retried"):
        facts["error"] = None if step.error is None else ErrorInfo(**summary(step.error))
        facts["seconds"] = max(0, (step.finished_at or step.started_at or 0) - (step.started_at or 0)) / SECOND
    if what == "step_finished":
        facts["status"] = step.status
    return facts
