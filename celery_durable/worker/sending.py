"""Sending the messages of runs that are due: by the sweeper, and by the dispatch of an event."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.exc import DBAPIError

from ..engine.passing import GRACE
from ..errors import DamagedRecord
from ..store.link import Link
from ..store.records import DAMAGED, Aftermath, Due, Fence
from .backlog import Backlog
from .message import queue_of, send
from .runtime import runtime_of
from .window import Window

__all__ = ["Sender", "follow", "grace"]

logger = logging.getLogger("celery_durable")

_CHUNK = 50
_BATCH = 500
_LONGEST_GRACE = 32
_LATER = GRACE * _LONGEST_GRACE
"""Microseconds until a run is looked at again whose message can't be made."""
_AWAY = (OperationalError,)
"""What says that the broker is away, whichever it is: nothing else can be sent either."""


def grace(sends: int) -> int:
    """Microseconds that a message has which was sent so often before. It grows slowly: a look that a backlog explained
    counts as well, and a message that is lost after a few of them is not to be missed for long."""
    return GRACE * min(1 + sends // 2, _LONGEST_GRACE)


class Sender:
    """Sends what is due, and marks it as sent. With a window, what that does not admit is left as it is."""

    def __init__(self, app: Celery, backlog: Backlog | None = None, window: Window | None = None) -> None:
        self._app = app
        self._runtime = runtime_of(app)
        self._backlog = backlog or Backlog(app)
        self._window = window

    def send(self, link: Link, runs: list[Due], goes_on: Callable[[], bool] = lambda: True) -> int:
        """Send the messages of these runs; how many were left. A sender that dies in between leaves duplicates, which
        do nothing.

        ``goes_on`` is asked now and then: whether the rest is still to be sent here.
        """
        left = 0
        for start in range(0, len(runs), _CHUNK):
            if not goes_on():
                return left + len(runs) - start
            left += self._send_chunk(link, runs[start : start + _CHUNK])
        return left

    def _send_chunk(self, link: Link, chunk: list[Due]) -> int:
        marks: list[tuple[Fence, int, bool]] = []
        left = 0
        try:
            with self._app.producer_or_acquire() as producer:
                for due in chunk:
                    # One by one: those sent before one fails are marked all the same.
                    mark = self._send_one(link, due, producer)
                    if mark is None:
                        left += 1
                    else:
                        marks.append(mark)
        finally:
            self._runtime.store.mark_sent(link, marks)
        return left

    def _send_one(self, link: Link, due: Due, producer: Any) -> tuple[Fence, int, bool] | None:
        """Send one run's message; what to mark: its fence, how long after its time to look again, whether it was sent.
        Nothing where it is left as it is."""
        delay = max(0, (due.wake_at or 0) - due.now)
        if delay and not self._runtime.etas.take(delay):
            return due.fence, 0, False
        try:
            # Nobody asks for the queue of a first message, unless there is a window: to find it out takes a while.
            asked = due.sends > 0 or (self._window is not None and not delay)
            queue = queue_of(self._app, due.task, due.message) if asked else None
            if queue is not None and self._backlog.explains(queue, due.sends):
                return due.fence, self._backlog.patience(queue), True
            if self._window and not delay and not self._window.admits(link, queue, due.fence, self._backlog):
                return None
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
                ordinary=due.kind is not None,
            )
        except DamagedRecord as error:
            return self._set_aside(link, due, error)
        except (DBAPIError, OSError, *_AWAY, *producer.connection.connection_errors):
            raise
        except Exception as error:
            # This run's message can't be made: it must not keep the others from being sent.
            logger.exception("run %s of %s: its message can't be made: %s", due.fence.run_id, due.task, error)
            return due.fence, _LATER, True
        return due.fence, grace(due.sends), True

    def _set_aside(self, link: Link, due: Due, error: DamagedRecord) -> tuple[Fence, int, bool]:
        """A run whose record can't be read is for a person to look at. What is not executed by its claim, a result or
        an ordinary task, waits for its row to be mended."""
        logger.error("run %s of %s can't be sent: %s", due.fence.run_id, due.task, error)
        if due.kind is None:
            self._runtime.store.set_aside(link, due.fence, f"{DAMAGED} {error}. Mend the row, then resume the run")
        return due.fence, _LATER, True


def follow(app: Celery, aftermath: Aftermath) -> None:
    """Send the messages of runs that have something to do now. What can't be sent the sweeper sends."""
    store = runtime_of(app).store
    wake = list(aftermath.wake)
    try:
        if wake or aftermath.freed:
            sender = Sender(app)
            with store.link() as link:
                wake += [run_id for name in aftermath.freed if (run_id := store.next_turn(link, name)) is not None]
                for start in range(0, len(wake), _BATCH):
                    sender.send(link, store.to_send(link, wake[start : start + _BATCH]))
        if aftermath.revoke:
            app.control.revoke(list(aftermath.revoke))
    except Exception as error:
        logger.warning(
            "%d runs have something to do, and could not be told (%s: %s); a worker tells them when the broker is back",
            len(wake),
            type(error).__name__,
            error,
        )
