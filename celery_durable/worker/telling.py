"""The result backend, while the end of a run is told to Celery.

Celery stores a result once. Where that fails because something is away, it calls the task failed and tries to store
that instead: a run that has completed would be a failure for whoever asks Celery, and a part of a chord would be
missing. But the run's end is recorded, and the sweeper has it told again. So an outage here is noted on the request,
which is then not taken for delivered, and Celery is not allowed to tell anything else.
"""

from __future__ import annotations

import logging
from typing import Any

from celery import states
from kombu.exceptions import OperationalError
from sqlalchemy.exc import DBAPIError

__all__ = ["Telling", "is_outage"]

logger = logging.getLogger("celery_durable")


def is_outage(backend: Any, error: BaseException) -> bool:
    """Whether it may go well when it is tried again: the broker, the result backend or the database was away."""
    return isinstance(error, (OperationalError, DBAPIError, OSError)) or backend.exception_safe_to_retry(error)


class Telling:
    """Celery's result backend, which bears outages. ``request.durable_ended`` is the state that the run ended in."""

    def __init__(self, backend: Any, request: Any) -> None:
        self._backend = backend
        self._request = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def mark_as_done(self, task_id: str, *args: Any, **kwargs: Any) -> None:
        self._tell(self._backend.mark_as_done, task_id, *args, **kwargs)

    def mark_as_failure(self, task_id: str, exc: BaseException, *args: Any, **kwargs: Any) -> None:
        if self._request.durable_ended == states.SUCCESS and is_outage(self._backend, exc):
            self._untold(exc)  # Celery's own failure, at sending what comes after the run
        else:
            self._tell(self._backend.mark_as_failure, task_id, exc, *args, **kwargs)

    def _tell(self, tell: Any, *args: Any, **kwargs: Any) -> None:
        try:
            tell(*args, **kwargs)
        except Exception as error:
            if not is_outage(self._backend, error):
                raise
            self._untold(error)

    def _untold(self, error: BaseException) -> None:
        self._request.durable_untold = True
        logger.warning(
            "run %s has ended, but Celery could not be told (%s: %s); the sweeper has it told again",
            self._request.id,
            type(error).__name__,
            error,
        )
