"""Signals about runs and steps, in Celery's manner: ``@run_finished.connect``. The sender is the task."""

from .worker.signals import (
    run_finished,
    run_paused,
    run_resumed,
    run_started,
    run_suspended,
    step_finished,
    step_retried,
    step_returned,
    step_started,
)

__all__ = [
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
