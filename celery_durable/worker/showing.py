"""What people see of a run in Celery while it is not executed: ``AsyncResult.state`` and ``.info``."""

from __future__ import annotations

import logging
from typing import Any

from celery import Celery

from ..core.duration import as_datetime

__all__ = ["show_waiting", "store_state"]

logger = logging.getLogger("celery_durable")


def show_waiting(
    app: Celery, run_id: str, waiting_on: str, wake_at: int | None, *, state: str, request: Any = None
) -> None:
    """Say what a run waits for, and until when."""
    until = None if wake_at is None else as_datetime(wake_at).isoformat()
    store_state(app, run_id, {"waiting_on": waiting_on, "until": until}, state, request=request)


def store_state(app: Celery, run_id: str, meta: dict[str, Any], state: str, *, request: Any = None) -> None:
    """Store a state in the result backend; that it is away must not stop a run."""
    try:
        app.backend.store_result(run_id, meta, state, request=request)
    except Exception as error:
        logger.warning("run %s: its state could not be shown in the result backend: %s", run_id, error)
