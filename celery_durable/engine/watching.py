"""Tells of a body that blocks its event loop: nothing else of the run can go on meanwhile.

A step's function that blocks has a thread of its own; code of the body between steps has not. Nothing can be done
about it from here (Celery's time limits can), but where it is can be said, while it lasts.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .loop import PassLoop

__all__ = ["watching"]

logger = logging.getLogger("celery_durable")

TELL_AFTER = 5.0
"""Seconds for which a loop may be held up before that is told."""


class _Watch:
    """One thread of a process, which lives while there are loops to be watched."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._loops: dict[PassLoop, tuple[str, int]] = {}
        self._told: dict[PassLoop, float] = {}
        self._thread: threading.Thread | None = None

    def add(self, loop: PassLoop, run_id: str) -> None:
        """Watch a loop that runs in this thread."""
        if self._pid != os.getpid():
            self.__init__()  # type: ignore[misc]  # forked: the parent's thread and lock are not here
        with self._changed:
            self._loops[loop] = (run_id, threading.get_ident())
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="celery-durable-watch", daemon=True)
                self._thread.start()

    def remove(self, loop: PassLoop) -> None:
        with self._changed:
            self._loops.pop(loop, None)
            self._told.pop(loop, None)

    def _work(self) -> None:
        while True:
            time.sleep(TELL_AFTER / 5)
            with self._changed:
                if not self._loops:
                    self._thread = None
                    return
                loops = list(self._loops.items())
            for loop, (run_id, thread_id) in loops:
                self._look(loop, run_id, thread_id)

    def _look(self, loop: PassLoop, run_id: str, thread_id: int) -> None:
        since = loop.busy_since
        if since is None or time.monotonic() - since < TELL_AFTER or self._told.get(loop) == since:
            return
        frame = sys._current_frames().get(thread_id)
        if frame is not None and loop.busy_since == since:
            self._told[loop] = since
            logger.warning(
                "run %s: its body has blocked its event loop for %.0f s, at %s. Await it, or make it a step: the "
                "function of a step that is a def has a thread of its own",
                run_id,
                time.monotonic() - since,
                _place(frame),
            )


def _place(frame: FrameType) -> str:
    code = frame.f_code
    return f"{code.co_filename}, line {frame.f_lineno}, in {code.co_name}"


_watch = _Watch()


@contextmanager
def watching(loop: PassLoop, run_id: str) -> Iterator[None]:
    """Tell of this loop when it is held up."""
    _watch.add(loop, run_id)
    try:
        yield
    finally:
        _watch.remove(loop)
