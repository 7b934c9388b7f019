"""Steps as they are recorded, for what is drawn of them."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from celery_durable import StepRecord

__all__ = ["at", "made", "sequence"]

_MIDNIGHT = datetime(2026, 3, 1, tzinfo=timezone.utc)


def at(seconds: float) -> datetime:
    """So many seconds after midnight."""
    return _MIDNIGHT + timedelta(seconds=seconds)


def made(id: str, began: float, ended: float | None = None, **values: Any) -> StepRecord:
    """A step of which only its times matter; one without an end waits."""
    facts: dict[str, Any] = {
        "position": 0,
        "kind": "run",
        "status": "waiting" if ended is None else "completed",
        "attempts": 1,
        "started_at": at(began),
        "finished_at": None if ended is None else at(ended),
    }
    return StepRecord(id=id, **facts | values)


def sequence(count: int, **others: StepRecord) -> list[StepRecord]:
    """So many steps of a second each, one after the other, but for those that are given by their ids: ``s7=...``."""
    steps = [others.get(f"s{place}") or made(f"s{place}", place, place + 1) for place in range(count)]
    return [step.model_copy(update={"position": place}) for place, step in enumerate(steps)]
