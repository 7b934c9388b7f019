"""The result backend, while the end of a run is told to Celery.

Celery stores a result once. Where that fails because something is away, it calls the task failed and tries to store
that instead: a run that has completed would be a failure for whoever asks Celery, and a part of a chord would be
missing. But the run's end is recorded, and the sweeper has it told again. So what was told is marked as delivered here,
where it is known that it was; after an outage nothing is, and Celery is not allowed to tell anything else.

What comes after a run may be a durable run as well, whose start has to be recorded. Celery takes no second try at the
body of a chord: where that can't be started it calls the chord failed, and forgets its parts. So a start that is made
here waits for a database that is away. Should this worker die meanwhile, another one tells it all again. What comes
after an ordinary task is sent unrecorded then: whoever takes its message records it.
"""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from typing import Any

from celery import Celery, states
from kombu.exceptions import OperationalError
from sqlalchemy.exc import DBAPIError

from ..engine.keeper import Keeper

__all__ = ["Telling", "is_chord_left", "is_next", "is_outage", "patience_of_start"]

logger = logging.getLogger("celery_durable")

patience_of_start: ContextVar[float] = ContextVar("durable_patience_of_start", default=0.0)
"""Seconds for which the start of a run waits for the database."""
_WHILE_TELLING = 3600.0


def is_outage(backend: Any, error: BaseException) -> bool:
    """Whether it may go well when it is tried again: the broker, the result backend or the database was away."""
    return isinstance(error, (OperationalError, DBAPIError, OSError)) or backend.exception_safe_to_retry(error)


class Telling:
    """Celery's result backend for durable tasks in a worker, which bears outages.

    It goes by the request that it is handed: Celery calls a task failed also when it has put its own request away.
    ``request.durable_ended`` is the state that the run ended in, if this is about its end.
    """

    def __init__(self, backend: Any, keeper: Keeper) -> None:
        self._backend = backend
        self._keeper = keeper

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def mark_as_done(self, task_id: str, result: Any, request: Any = None, *args: Any, **kwargs: Any) -> None:
        self._tell(request, self._backend.mark_as_done, task_id, result, request, *args, **kwargs)

    def mark_as_failure(
        self, task_id: str, exc: BaseException, traceback: Any = None, request: Any = None, *args: Any, **kwargs: Any
    ) -> None:
        if getattr(request, "durable_ended", None) == states.SUCCESS and is_outage(self._backend, exc):
            _untold(request, exc)  # Celery's own failure, at sending what comes after the run
        else:
            self._tell(request, self._backend.mark_as_failure, task_id, exc, traceback, request, *args, **kwargs)

    def _tell(self, request: Any, tell: Any, *args: Any, **kwargs: Any) -> None:
        if getattr(request, "durable_ended", None) is None or request.is_eager:
            tell(*args, **kwargs)
            return
        patience = patience_of_start.set(_WHILE_TELLING)
        try:
            tell(*args, **kwargs)
        except Exception as error:
            if not is_outage(self._backend, error):
                raise
            _untold(request, error)
        else:
            if is_chord_left(self._backend, request):
                logger.info("run %s has ended, and its chord has not gone on: the sweeper tells it again", request.id)
            else:
                self._keeper.delivered(request.durable_fence)
        finally:
            patience_of_start.reset(patience)


def is_next(app: Celery, run_id: str, options: dict[str, Any]) -> bool:
    """Whether it is Celery that starts a run: as what comes next in a chain, a callback, or the body of a chord, when a
    task has ended. Nobody would start it again."""
    ended = app.current_worker_task
    if ended is None:
        return False
    body = (ended.request.chord or {}).get("options") or {}
    return (
        options.get("parent_id") == ended.request.id
        or body.get("task_id") == run_id
        or ended.name == "celery.chord_unlock"
    )


def is_chord_left(backend: Any, request: Any) -> bool:
    """Whether somebody is about to start the body of this run's chord, and may have died at it.

    Whoever brings the last part claims the right to start the body (in Redis, from Celery 5.7 on) and holds it for
    some seconds. When a worker is killed right then, the part that is told again in time finds the claim there, and
    does nothing: it has to come once more.
    """
    if not request.chord or not request.group or not isinstance(backend, _redis()):
        return False
    try:
        return backend.client.get(backend.get_key_for_group(request.group, ".c")) not in (None, b"done")
    except Exception as error:
        logger.info("whether the chord of run %s goes on could not be asked: %s", request.id, error)
        return True


def _redis() -> Any:
    """The class of the Redis backends, where one is in use: it is imported then."""
    module = sys.modules.get("celery.backends.redis")
    return () if module is None else module.RedisBackend


def _untold(request: Any, error: BaseException) -> None:
    logger.warning(
        "run %s has ended, but Celery could not be told (%s: %s); the sweeper has it told again",
        request.id,
        type(error).__name__,
        error,
    )
