"""What runs, steps and times are called, wherever people read of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from typing import Any

from pydantic import BaseModel

from ..core.concurrency import Concurrency
from ..core.duration import as_datetime, describe, micros, moment
from ..core.retry import Retry
from ..model import ErrorInfo, Run, StepRecord

__all__ = [
    "ago",
    "clock",
    "counted",
    "error_of",
    "limit_says",
    "moment_or_ago",
    "now",
    "plain",
    "retry_says",
    "span",
    "state_of",
    "step_says",
    "took",
    "value_of",
]


def now() -> datetime:
    """What time it is here."""
    return datetime.now(timezone.utc)


def moment_or_ago(text: str) -> datetime:
    """A point in time that a person has written, or how long ago it was. Raises ``ValueError``."""
    try:
        return now() - timedelta(microseconds=micros(text))
    except ValueError:
        pass
    try:
        return as_datetime(moment(text))
    except ValueError as error:
        raise ValueError(f'{error}; or how long ago it was, such as "2h"') from error


def span(duration: timedelta | None) -> str:
    """A length of time, as exactly as it matters."""
    if duration is None:
        return ""
    seconds = max(0.0, duration.total_seconds())
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    return describe(round(seconds) * 1_000_000)


def ago(when: datetime | None) -> str:
    """How long ago something was."""
    return "" if when is None else describe(max(0, int((now() - when).total_seconds())) * 1_000_000)


def clock(when: datetime | None) -> str:
    """A point in time, to the second."""
    return "" if when is None else when.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")


def counted(number: int, what: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def value_of(value: Any) -> str:
    """A value in one line."""
    return json.dumps(value, ensure_ascii=False, default=plain)


def plain(value: Any) -> Any:
    """What JSON does not have: an event with all that it holds, a date as a text."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def error_of(error: ErrorInfo) -> str:
    """An error in one line, as Python says it."""
    name = error.type.rpartition(".")[2]
    return f"{name}: {error.message}" if error.message else name


def took(record: Run | StepRecord) -> timedelta | None:
    """How long it took from its beginning to its end; of what goes on, until now."""
    if record.started_at is None:
        return None
    return (record.finished_at or now()) - record.started_at


def state_of(run: Run) -> str:
    """What a run waits for, what it does, or what it has failed of."""
    if run.status in ("failed", "cancelled"):
        return "" if run.error is None else error_of(run.error)
    if run.status == "running":
        return _joined(run.worker and f"on {run.worker}", _progress_of(run), _cancelling_of(run))
    if run.status == "completed":
        return ""
    return _joined(run.waiting_on, _until(run.wake_at), _progress_of(run), _cancelling_of(run))


def _joined(*parts: str | None) -> str:
    return ", ".join(part for part in parts if part)


def _until(when: datetime | None) -> str | None:
    if when is None:
        return None
    left = when - now()
    return f"{span(left)} left" if left > timedelta(seconds=1) else None


def _progress_of(run: Run) -> str | None:
    said = run.progress
    if said is None:
        return None
    value = "" if said.value is None else f"at {said.value}" + ("" if said.total is None else f" of {said.total}")
    return " ".join(part for part in (value, said.note) if part)


def _cancelling_of(run: Run) -> str | None:
    return None if run.cancelling is None else f"being cancelled ({run.cancelling})"


def step_says(step: StepRecord) -> str:
    """What a step returned, what it failed of, or until when it waits."""
    said: Iterable[str | None]
    if step.status == "waiting":
        failed = None if step.error is None else f"{error_of(step.error)}; tried again"
        said = (failed, _until(step.wake_at), step.child and f"run {step.child}")
        return _joined(*said)
    if step.error is not None:
        return error_of(step.error)
    if step.status == "started":
        return "" if step.heartbeat is None else f"at {value_of(step.heartbeat)}"
    return "" if step.result is None else value_of(step.result)


def retry_says(policy: Retry) -> str:
    """A retry policy in a line: ``4 attempts, 1s, doubling up to 10m``."""
    says = counted(policy.max_attempts, "attempt")
    first, ceiling = micros(policy.delay), micros(policy.max_delay)
    if policy.max_attempts > 1:
        says += ", " + _delays(first, ceiling, float(policy.backoff), policy.max_attempts)
        if policy.on != (Exception,):
            says += ", on " + " or ".join(kind.__name__ for kind in policy.on)
        if policy.never:
            says += ", not on " + " or ".join(kind.__name__ for kind in policy.never)
    return says


def _delays(first: int, ceiling: int, backoff: float, attempts: int) -> str:
    if not first or not ceiling:
        return "at once"
    if backoff == 1 or first >= ceiling or attempts == 2:
        return f"{describe(min(first, ceiling))} apart"
    growing = "doubling" if backoff == 2 else f"times {backoff:g}"
    return f"{describe(first)}, {growing} up to {describe(ceiling)}"


def limit_says(concurrency: Concurrency) -> str:
    """How many runs are executed at once: ``3 at once for each tenant``."""
    key = concurrency.key
    if key is None:
        return f"{concurrency.limit} at once"
    return f"{concurrency.limit} at once for each {key if isinstance(key, str) else getattr(key, '__name__', 'key')}"
