"""A worker process's one helper thread: heartbeats for the leases, and delivery marks in batches.

Both are kept off the hot path: a pass only notes that it began or ended. The thread begins with the
first pass of its process, so a worker's main process and a web server never have one. It has a connection of its own
from one heartbeat to the next: by turns with the passes it would have each of them begin on the other one's.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from ..core.duration import SECOND
from ..store.records import Fence

if TYPE_CHECKING:
    from ..store.link import Link
    from ..store.store import Store

__all__ = ["Keeper"]

logger = logging.getLogger("celery_durable")

_GATHERING = 0.02
"""Seconds that a delivery mark waits for others to share its statement."""


class Keeper:
    """Keeps what this process holds."""

    def __init__(self, store: Store, lease: int) -> None:
        self._store = store
        self._lease = lease
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._held: dict[str, Fence] = {}
        self._delivered: list[Fence] = []
        self._thread: threading.Thread | None = None

    def hold(self, fence: Fence) -> None:
        """A pass has begun: extend its lease until it ends."""
        self._begin()
        with self._changed:
            self._held[fence.run_id] = fence

    def _begin(self) -> None:
        if self._pid != os.getpid():
            self._reset()  # forked: the parent's thread and locks are not here
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="celery-durable-keeper", daemon=True)
                self._thread.start()

    def drop(self, fence: Fence) -> None:
        """The pass has ended."""
        with self._changed:
            if self._held.get(fence.run_id) == fence:
                del self._held[fence.run_id]

    def delivered(self, ended: Fence) -> None:
        """Celery has the result of this run, callbacks and all."""
        self._begin()  # it may be a result that another process has recorded, and the first that is told here
        with self._changed:
            self._delivered.append(ended)
            self._changed.notify()

    def flush(self) -> None:
        """Write the outstanding marks now: the process is about to end."""
        if self._pid != os.getpid():
            return
        with self._changed:
            marks, self._delivered = self._delivered, []
        with self._store.link() as link:
            self._mark(link, marks)

    def _work(self) -> None:
        beat = max(self._lease / SECOND / 3, 0.05)
        next_beat = time.monotonic() + beat
        link = self._store.link()
        while True:
            with self._changed:
                if not self._delivered:
                    self._changed.wait(max(0.0, next_beat - time.monotonic()))
            time.sleep(_GATHERING)
            with self._changed:
                marks, self._delivered = self._delivered, []
                held = list(self._held.values())
            self._mark(link, marks)
            is_time = time.monotonic() >= next_beat
            if is_time:
                self._beat(link, held)
                next_beat = time.monotonic() + beat
            if is_time or not self._store.pooled:
                link.release()

    def _mark(self, link: Link, marks: list[Fence]) -> None:
        if not marks:
            return
        try:
            self._store.mark_delivered(link, marks)
        except Exception as error:
            # Unmarked, they are delivered once more; a mark that comes late prevents that.
            logger.warning("%d delivered results could not be marked yet: %s", len(marks), error)
            with self._changed:
                self._delivered = marks + self._delivered
            time.sleep(1)

    def _beat(self, link: Link, held: list[Fence]) -> None:
        if not held:
            return
        try:
            self._store.extend(link, held, self._lease)
        except Exception as error:
            logger.warning("the leases of %d runs could not be extended: %s", len(held), error)
