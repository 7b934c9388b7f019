"""The sweeper: it makes happen what time brings about, and what a lost message or worker left undone.

Every worker has one, a thread of its main process; one of them holds the lease and works. Each tick
asks one question by one index: which runs are due (``run.due_at``, see ``store/tables.py``)? The
message of each is sent, and only then marked as sent: a sweeper that dies in between leaves a duplicate,
which finds its run claimed and does nothing.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

from celery import Celery
from kombu.exceptions import SerializationError
from sqlalchemy.exc import DBAPIError

from ..core.duration import SECOND
from ..engine.passing import GRACE
from ..errors import DurableError
from ..store.link import Link
from ..store.records import Due, Fence
from .message import ignores_result, queue_of, send
from .runtime import Runtime, runtime_of
from .showing import show_waiting

__all__ = ["Sweeper", "recover"]

logger = logging.getLogger("celery_durable")

LEASE = "sweeper"
_BATCH = 500
_CHUNK = 50
_LONGEST_GRACE = 32
_BACKLOG_LOOKS = 20


def recover(
    runtime: Runtime,
    link: Link,
    fence: Fence,
    *,
    task: str,
    worker: str | None,
    show: Callable[[str], None],
) -> bool:
    """Free a run whose worker died; park it for a person when that has happened too often.

    ``show`` tells Celery's users why a run is paused.
    """
    deaths, _ = runtime.store.deaths(link, fence.run_id)
    because = None
    if deaths >= runtime.settings.max_recoveries:
        because = (
            f"poison: {deaths} workers died executing this run without recording a step (the last: {worker}). "
            f"See why, then Durable(app).resume({fence.run_id!r})"
        )
    freed = runtime.store.recover(link, fence, pause_because=because)
    if freed:
        fate = "it is paused for a person to look at" if because else "it goes on from its last recorded step"
        logger.warning("run %s of %s: its worker %s died; %s", fence.run_id, task, worker, fate)
        if because:
            show(because)
    return freed


class Sweeper:
    """One worker's sweeper."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._runtime = runtime_of(app)
        self._interval = self._runtime.settings.sweep_interval / SECOND
        self._lease = min(10.0, max(3 * self._interval, self._runtime.settings.lease / SECOND / 3))
        self.name = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._leading_until = 0.0
        self._ask_at = 0.0
        self._broken: str | None = None
        self._depths: dict[str, bool] = {}

    def start(self) -> None:
        self._thread = threading.Thread(target=self._work, name="celery-durable-sweeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current batch and let another worker lead at once."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5)
        try:
            with self._runtime.store.link() as link:
                self._runtime.store.drop_lease(link, LEASE, self.name)
        except Exception as error:
            logger.info("the sweeper's lease could not be given back, it ends by itself: %s", error)

    def _work(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                with self._runtime.store.link() as link:
                    if self._leads(link):
                        self.tick(link)
                self._recovered()
            except Exception as error:
                self._failed(error)

    def _leads(self, link: Link) -> bool:
        now = time.monotonic()
        if now < self._ask_at:
            return now < self._leading_until
        asked = now
        leads = self._runtime.store.take_lease(link, LEASE, self.name, int(self._lease * SECOND))
        if leads and not self._leading_until:
            logger.info("this worker sweeps the durable runs now")
        self._leading_until = asked + self._lease if leads else 0.0
        self._ask_at = asked + self._lease / (3 if leads else 2)
        return leads

    def tick(self, link: Link) -> int:
        """Do all that is due; how many runs were looked at."""
        self._depths = {}
        looked_at = 0
        while not self._stop.is_set():
            batch = self._runtime.store.due(link, _BATCH)
            looked_at += len(batch)
            again = self._handle(link, batch)
            if not again or not self._leads(link):
                break
        return looked_at

    def _handle(self, link: Link, batch: list[Due]) -> bool:
        """Do a batch; whether another look is worth it now."""
        recovered = False
        waiting: list[Due] = []
        for due in batch:
            if due.status == "running":
                recovered |= recover(
                    self._runtime,
                    link,
                    due.fence,
                    task=due.task,
                    worker=due.worker,
                    show=partial(self._show, due),
                )
            else:
                waiting.append(due)
        for start in range(0, len(waiting), _CHUNK):
            self._send(link, waiting[start : start + _CHUNK])
        return recovered or len(batch) == _BATCH

    def _show(self, due: Due, waiting_on: str) -> None:
        if not ignores_result(self._app, due.task, due.message):
            state = self._runtime.settings.suspended_state
            show_waiting(self._app, due.fence.run_id, waiting_on, None, state=state)

    def _send(self, link: Link, chunk: list[Due]) -> None:
        marks: list[tuple[Fence, int, bool]] = []
        try:
            with self._app.producer_or_acquire() as producer:
                for due in chunk:
                    # One by one: those sent before one fails are marked all the same.
                    marks.append(self._send_one(due, producer))  # noqa: PERF401
        finally:
            self._runtime.store.mark_sent(link, marks)

    def _send_one(self, due: Due, producer: Any) -> tuple[Fence, int, bool]:
        """Send one run's message; what to mark: its fence, when to look again, whether it was sent."""
        delay = max(0, (due.wake_at or 0) - due.now)
        if delay and not self._runtime.etas.take(delay):
            return due.fence, delay, False
        try:
            if 0 < due.sends < _BACKLOG_LOOKS and self._is_behind(due):
                return due.fence, GRACE, True
            send(
                self._app,
                due.task,
                due.fence.run_id,
                arguments=due.arguments,
                kept=due.message,
                passes=due.passes,
                retries=due.retries,
                delay=delay,
                producer=producer,
            )
        except (DurableError, TypeError, ValueError, KeyError, SerializationError) as error:
            # This run's message can't be made: it must not keep the others from being sent.
            logger.exception("run %s of %s: its message can't be made: %s", due.fence.run_id, due.task, error)
            return due.fence, GRACE * _LONGEST_GRACE, True
        return due.fence, delay + GRACE * min(2**due.sends, _LONGEST_GRACE), True

    def _is_behind(self, due: Due) -> bool:
        """Whether the run's queue still has messages: then its own is probably among them, not lost."""
        queue = queue_of(self._app, due.task, due.message)
        if queue is None:
            return False
        if queue not in self._depths:
            try:
                with self._app.connection_for_read() as connection:
                    declared = connection.default_channel.queue_declare(queue, passive=True)
                self._depths[queue] = declared.message_count > 0
            except Exception:  # no such queue, or a transport that can't tell
                self._depths[queue] = False
        return self._depths[queue]

    def _failed(self, error: Exception) -> None:
        """Said once for each kind of trouble, not at every tick."""
        kind = f"{type(error).__name__}: {str(error)[:80]}"
        self._ask_at = 0.0
        if kind == self._broken:
            return
        self._broken = kind
        if isinstance(error, (DBAPIError, OSError)) or "kombu" in type(error).__module__:
            logger.error("the sweeper can't reach the durable database or the broker, and keeps trying: %s", error)
        else:
            logger.error("the sweeper failed, and keeps trying", exc_info=error)

    def _recovered(self) -> None:
        if self._broken is not None:
            logger.info("the sweeper works again")
            self._broken = None
