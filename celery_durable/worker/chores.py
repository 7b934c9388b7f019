"""What the leading sweeper does besides sending what is due: whatever somebody has left undone, and forgetting."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from celery import Celery

from ..store.lines import Line
from ..store.link import Link
from ..store.records import Aftermath
from .runtime import runtime_of
from .sending import follow

__all__ = ["Chores"]

logger = logging.getLogger("celery_durable")

_LOOK_EVERY = 5.0
"""Seconds between looks for lines and locks whose next one was not told: whoever was to do it has died."""
_FORGET_EVERY = 60.0
_BATCH = 500


class Chores:
    """Done by one worker at a time, each in batches that end when the lead is lost."""

    def __init__(self, app: Celery, goes_on: Callable[[Link], bool]) -> None:
        self._app = app
        self._runtime = runtime_of(app)
        self._goes_on = goes_on
        self._look_at = 0.0
        self._forget_at = 0.0

    def do(self, link: Link) -> None:
        """Do what it is time for."""
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY
            self.hand_on(link)
        if now >= self._forget_at:
            self._forget(link)

    def hand_on(self, link: Link) -> None:
        """Give what is free, shares and locks, to whoever waits for it."""
        lines, locks = self._runtime.store.what_is_free(link)
        if lines:
            self._let_in(link)
        if locks:
            self._hand_on_locks(link)

    def _let_in(self, link: Link) -> None:
        """Let in the first of each line that has a share to give. Of a task that is not known here one is tried: its
        worker counts."""
        for resource, task in self._runtime.store.lines(link, _BATCH):
            concurrency = getattr(self._app.tasks.get(task), "concurrency", None)
            limit = concurrency.limit if concurrency is not None else 1
            follow(self._app, Aftermath(wake=tuple(self._runtime.store.let_in(link, Line(resource, limit)))))

    def _hand_on_locks(self, link: Link) -> None:
        """Give each lock that is free, or whose holder's time is up, to the first in its line."""
        free = self._runtime.store.free_locks(link, _BATCH)
        if free:
            follow(self._app, Aftermath(freed=tuple(free)))

    def _forget(self, link: Link) -> None:
        store, settings = self._runtime.store, self._runtime.settings
        self._forget_at = time.monotonic() + _FORGET_EVERY
        events = self._all(link, lambda: store.forget_events(link, settings.event_retention, _BATCH))
        if events:
            logger.info("%d events were older than durable_event_retention and are forgotten", events)
        self._all(link, lambda: store.forget_states(link, _BATCH))
        runs = self._all(link, lambda: store.forget_runs(link))
        if runs:
            logger.info("%d finished runs were kept for as long as they were to be, and are forgotten", runs)

    def _all(self, link: Link, forget: Callable[[], int]) -> int:
        """Batch after batch, so that nothing is blocked for long."""
        forgotten = 0
        while batch := forget():
            forgotten += batch
            if not self._goes_on(link):
                self._forget_at = 0.0
                break
        return forgotten
