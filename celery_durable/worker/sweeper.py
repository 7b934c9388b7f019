"""The sweeper: it makes happen what time brings about, and what a lost message or worker left undone.

Every worker has one, a thread of its main process; one of them holds the lease and works, the others look again when
that lease would end. Each tick asks one question, by an index each: are there runs that are due, or events (``due_at``,
see ``store/tables.py``)? Where there are, it asks which. The message of each is sent, and only then marked as sent: a
sweeper that dies in between leaves a duplicate, which finds its run claimed and does nothing.

Of a queue that has enough messages for now the runs are left as they are, at the head of what is due (``window.py``),
and are passed over to reach those of other queues. A tick passes over some batches and no more; the next one goes on
where it has come to.
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

from celery import Celery
from sqlalchemy.exc import DBAPIError

from ..core.duration import SECOND
from ..engine.passing import GRACE
from ..store.link import Link
from ..store.records import Due, Fence
from .backlog import Backlog
from .chores import Chores
from .dispatch import dispatch_queue, queue_dispatch
from .message import ignores_result
from .reporting import held_here, look_after
from .runtime import Runtime, runtime_of
from .sending import Sender, grace
from .showing import show_waiting
from .window import Window

__all__ = ["Sweeper", "recover"]

logger = logging.getLogger("celery_durable")

LEASE = "sweeper"
_BATCH = 500
_EVENTS = 50
_PASSED_OVER = 5
"""How many batches with runs that are left as they are a tick looks at."""
_HOLD_EVERY = 5.0


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
        self._backlog = Backlog(app)
        self._window = Window(self._runtime.store)
        self._goes_on_at = 0
        self._chores = Chores(app, self._goes_on)
        self._hold_at = 0.0

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
                    self._hold(link)
                    if self._leads(link):
                        self.tick(link)
                self._recovered()
            except Exception as error:
                self._failed(error)

    def _hold(self, link: Link) -> None:
        """Tell of the called tasks that this worker has: they are not lost."""
        if time.monotonic() >= self._hold_at:
            self._hold_at = time.monotonic() + _HOLD_EVERY
            held = held_here()
            if held:
                self._runtime.store.hold_calls(link, held, GRACE)

    def _leads(self, link: Link) -> bool:
        now = time.monotonic()
        if now < self._ask_at:
            return now < self._leading_until
        asked, store = now, self._runtime.store
        left = 0.0 if self._leading_until else min(store.lease_left(link, LEASE) / SECOND, self._lease)
        leads = left <= 0 and store.take_lease(link, LEASE, self.name, int(self._lease * SECOND))
        if leads and not self._leading_until:
            logger.info("this worker sweeps the durable runs now")
        self._leading_until = asked + self._lease if leads else 0.0
        self._ask_at = asked + (self._lease / 3 if leads else max(left, self._interval))
        return leads

    def _goes_on(self, link: Link) -> bool:
        return not self._stop.is_set() and self._leads(link)

    def tick(self, link: Link) -> int:
        """Do all that is due; how many runs were looked at."""
        self._backlog = Backlog(self._app)
        self._window.open()
        runs, events = self._runtime.store.what_is_due(link)
        looked_at = self._see_to_runs(link) if runs else 0
        looked_at += self._dispatch_events(link) if events else 0
        self._chores.do(link)
        return looked_at

    def _see_to_runs(self, link: Link) -> int:
        """What is due, longest due first, until none is left or too much has to be passed over."""
        looked_at = passed_over = 0
        turns = _PASSED_OVER
        while turns and self._goes_on(link):
            batch = self._runtime.store.due(link, _BATCH, passed_over)
            looked_at += len(batch)
            left, recovered = self._handle(link, batch)
            if left:
                turns -= 1
                passed_over = max(passed_over + left, self._goes_on_at)
            if not recovered and len(batch) < _BATCH:
                passed_over = 0
                break
        self._goes_on_at = passed_over
        return looked_at

    def _dispatch_events(self, link: Link) -> int:
        """Have the events dispatched whose dispatch was not sent, was lost, or died."""
        store, queue, looked_at = self._runtime.store, dispatch_queue(self._app), 0
        while looked_at < _BATCH and self._goes_on(link):
            events = store.due_events(link, _EVENTS)
            looked_at += len(events)
            for event_id, sends in events:
                if not self._backlog.explains(queue, sends):
                    queue_dispatch(self._app, event_id)
            store.mark_events_sent(link, [(event_id, grace(sends)) for event_id, sends in events])
            if len(events) < _EVENTS:
                break
        return looked_at

    def _handle(self, link: Link, batch: list[Due]) -> tuple[int, bool]:
        """Do a batch; how many were left as they were, and whether one was freed that is to be sent now."""
        recovered = False
        waiting: list[Due] = []
        silent: list[Due] = []
        for due in batch:
            if due.kind is not None and due.sends:
                silent.append(due)
            elif due.status == "running":
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
        # A batch may take longer than the lease where the machine is busy. Two that lead send everything twice.
        left = Sender(self._app, self._backlog, self._window).send(link, waiting, partial(self._goes_on, link))
        if silent:
            look_after(self._app, link, silent, self._backlog)
        return left, recovered

    def _show(self, due: Due, waiting_on: str) -> None:
        if not ignores_result(self._app, due.task, due.message):
            state = self._runtime.settings.suspended_state
            show_waiting(self._app, due.fence.run_id, waiting_on, None, state=state)

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
