"""A message in a worker's main process.

With the prefork pool the main process learns things that the child that executes a durable run's pass can't tell
any more: that it was killed, or that the hard time limit ended it. They are written to the run here.

So is what an ordinary task has ended with that Celery calls nobody back about. The child could tell of it, by the
signal ``task_postrun``, but then every task would pay for that; here only one that has ended in such a way does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery import Celery
from celery.exceptions import Ignore, Reject, TimeLimitExceeded, WorkerLostError
from celery.utils.imports import symbol_by_name
from celery.worker import state
from celery.worker.request import Request
from kombu.asynchronous import get_event_loop

from ..core.faults import write_error
from .message import PASS_HEADER
from .reporting import report_silence
from .running import RunEnded, RunParked, worker_name
from .runtime import Runtime, runtime_of
from .sending import follow
from .showing import show_waiting
from .sweeper import recover

__all__ = ["DurableRequest", "OrdinaryRequest", "acknowledge_finished", "hear_silence"]

logger = logging.getLogger("celery_durable")


_LATEST = 0.01
"""Seconds after which a message is acknowledged whatever else there is to do."""
_finished: list[Callable[[], None]] = []
"""What acknowledges the messages that are executed, and were let wait."""


def acknowledge_finished() -> None:
    """Acknowledge the messages that are executed."""
    try:
        while _finished:
            _finished.pop(0)()
    finally:
        _finished.clear()  # after an error: their connection is lost, and they come again


class DurableRequest(Request):
    """Celery's request, with the run's record kept in step."""

    @property
    def _runtime(self) -> Runtime:
        return runtime_of(self.app)

    @property
    def _holder(self) -> str:
        return worker_name(self.hostname, self.worker_pid)

    def acknowledge(self) -> None:
        """Where others wait for the process that is free now, they come first: a broker takes its time for this."""
        hub = get_event_loop()
        are_waiting = len(state.reserved_requests) > len(state.active_requests)
        in_loop = hub is not None and threading.current_thread() is threading.main_thread()
        is_stopping = any(
            each is not None and each is not False for each in (state.should_stop, state.should_terminate)
        )
        if not are_waiting or not in_loop or is_stopping:
            super().acknowledge()
            return
        if not _finished:
            hub.call_later(_LATEST, acknowledge_finished)
        _finished.append(super().acknowledge)

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        if self._request_dict.get(PASS_HEADER):
            # Monitors take a state of their own, such as WAITING, for later than STARTED whatever its
            # time is; only a retry makes them believe in a new start.
            self.send_event("task-retried", exception="", traceback="")
        super().on_accepted(pid, time_accepted)
        acknowledge_finished()

    def on_timeout(self, soft: bool, timeout: float) -> None:
        if not soft and not state.should_terminate:
            self._settle(
                "the hard time limit could not be recorded", self._time_limit_exceeded, TimeLimitExceeded(timeout)
            )
        super().on_timeout(soft, timeout)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        error = _raised(exc_info)
        if isinstance(error, RunParked):
            self.send_event("task-waiting", waiting_on=str(error))
        elif isinstance(error, RunEnded):
            self.send_event("task-revoked", terminated=False, signum=None, expired=False)
        elif isinstance(error, TimeLimitExceeded):
            self._settle("the hard time limit could not be recorded", self._time_limit_exceeded, error)
        elif isinstance(error, (WorkerLostError, SystemExit, KeyboardInterrupt)):
            self._settle("its lease has to end before it goes on", self._worker_lost)
        super().on_failure(exc_info, send_failed_event, return_ok)

    def _time_limit_exceeded(self, error: TimeLimitExceeded) -> None:
        with self._runtime.store.link() as link:
            aftermath = self._runtime.store.end_from_outside(
                link, self.id, status="failed", error=write_error(error), worker=self._holder
            )
        if aftermath is not None:
            follow(self.app, aftermath)

    def _worker_lost(self) -> None:
        """The child is dead, so nobody holds the run: free it now instead of when the lease ends."""
        with self._runtime.store.link() as link:
            held = self._runtime.store.running_under(link, self.id, self._holder)
            if held is not None:
                recover(
                    self._runtime,
                    link,
                    held,
                    task=self.name,
                    worker=self._holder,
                    show=self._show,
                )

    def _show(self, waiting_on: str) -> None:
        if not self.ignore_result:
            show_waiting(self.app, self.id, waiting_on, None, state=self._runtime.settings.suspended_state)

    def _settle(self, otherwise: str, action: Any, *args: Any) -> None:
        """Nothing that fails here may stop the worker's main loop."""
        try:
            action(*args)
        except Exception:
            logger.exception("run %s: %s", self.id, otherwise)


class OrdinaryRequest(Request):
    """The request of an ordinary task, which may have been called by a run."""

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        error = _raised(exc_info)
        if isinstance(error, (Ignore, Reject)) and not getattr(error, "requeue", False):
            try:
                report_silence(self, error)
            except Exception:
                logger.exception("that %s[%s] has ended without a result could not be told", self.name, self.id)
        super().on_failure(exc_info, send_failed_event, return_ok)


def _raised(exc_info: Any) -> BaseException:
    error: BaseException = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


def hear_silence(app: Celery) -> None:
    """Have the ordinary tasks of an app told of that end without a result. Before a worker gets messages."""
    for task in app.tasks.values():
        requests = symbol_by_name(task.Request)
        if not issubclass(requests, (DurableRequest, OrdinaryRequest)):
            task.Request = _hearing(requests)


@cache
def _hearing(requests: type[Request]) -> type[Request]:
    if requests is Request:
        return OrdinaryRequest
    return type(requests.__name__, (OrdinaryRequest, requests), {})
