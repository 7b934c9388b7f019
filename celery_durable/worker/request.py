"""A durable run's message in a worker's main process.

With the prefork pool the main process learns things that the child that executes the pass can't tell
any more: that it was killed, or that the hard time limit ended it. They are written to the run here.
"""

from __future__ import annotations

import logging
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import TimeLimitExceeded, WorkerLostError
from celery.worker import state
from celery.worker.request import Request

from ..core.faults import write_error
from .message import PASS_HEADER
from .running import RunEnded, RunParked, worker_name
from .runtime import Runtime, runtime_of
from .sending import follow
from .showing import show_waiting
from .sweeper import recover

__all__ = ["DurableRequest"]

logger = logging.getLogger("celery_durable")


class DurableRequest(Request):
    """Celery's request, with the run's record kept in step."""

    @property
    def _runtime(self) -> Runtime:
        return runtime_of(self.app)

    @property
    def _holder(self) -> str:
        return worker_name(self.hostname, self.worker_pid)

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        if self._request_dict.get(PASS_HEADER):
            # Monitors take a state of their own, such as WAITING, for later than STARTED whatever its
            # time is; only a retry makes them believe in a new start.
            self.send_event("task-retried", exception="", traceback="")
        super().on_accepted(pid, time_accepted)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        if not soft and not state.should_terminate:
            self._settle(
                "the hard time limit could not be recorded", self._time_limit_exceeded, TimeLimitExceeded(timeout)
            )
        super().on_timeout(soft, timeout)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> None:
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
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
