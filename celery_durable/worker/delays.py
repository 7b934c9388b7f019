"""When a start is to begin, as Celery's options say it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from celery import Celery
from celery.utils.time import maybe_iso8601

from ..core.duration import micros, moment
from .runtime import runtime_of

__all__ = ["delay_of"]


def delay_of(app: Celery, options: dict[str, Any]) -> int:
    """Microseconds until a run may begin that is started with these options."""
    if options.get("countdown") is not None:
        return max(0, micros(max(0, options["countdown"])))
    eta = options.get("eta")
    if eta is None:
        return 0
    if isinstance(eta, str):
        eta = maybe_iso8601(eta)
    if isinstance(eta, datetime) and eta.tzinfo is None:
        eta = eta.replace(tzinfo=app.timezone)  # as Celery reads a naive one
    return max(0, moment(eta) - runtime_of(app).now())
