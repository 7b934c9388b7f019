"""Giving up a connection that does not answer.

A statement can wait for ever: for a lock that somebody holds, for a server that hangs, for packets that a firewall
drops. Drivers bound that differently or not at all, and a bound for all statements would hit those of the user's own
in ``step.transaction``. So a thread of each process looks after the operations that are under way. One that is overdue
is cancelled on the server, so that it does not go on waiting there, and its socket is shut. To the driver that is a
connection which was lost, and what follows is what follows every other loss.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ..errors import add_note
from .dialects import cancel_on_server, socket_of

__all__ = ["Watched", "watch"]


class Watched:
    """The operations on a connection, one after the other: while it is entered, one is looked after."""

    __slots__ = ("driver", "engine", "is_overdue", "seconds", "until")

    def __init__(self, connection: Connection, seconds: float) -> None:
        self.engine = connection.engine
        self.driver: Any = connection.connection.driver_connection
        self.seconds = seconds
        self.until = math.inf
        self.is_overdue = False
        """One was given up: the connection is of no use after it."""

    def __enter__(self) -> None:
        self.until = time.monotonic() + self.seconds
        watch.begin(self)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        watch.end(self)
        if self.is_overdue and isinstance(error, DBAPIError):
            add_note(
                error,
                f"celery_durable: the durable database did not answer within {self.seconds:g} s "
                "(durable_database_timeout): it hangs, or somebody holds a lock that this has to wait for",
            )


class _Watch:
    """All operations of this process, and the thread that looks after them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._under_way: set[Watched] = set()
        self._thread: threading.Thread | None = None
        self._looks_at = math.inf

    def begin(self, watched: Watched) -> None:
        """Look after an operation from now on; also one whose time has been set anew."""
        with self._lock:
            self._under_way.add(watched)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="celery-durable-watch", daemon=True)
                self._thread.start()
            if watched.until < self._looks_at:
                self._changed.notify()

    def end(self, watched: Watched) -> None:
        with self._lock:
            self._under_way.discard(watched)

    def _work(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for watched in self._under_way:
                    if watched.until <= now and not watched.is_overdue:
                        watched.is_overdue = True
                        threading.Thread(
                            target=self._give_up, args=(watched,), name="celery-durable-overdue", daemon=True
                        ).start()
                waiting = [watched.until for watched in self._under_way if not watched.is_overdue]
                self._looks_at = min(waiting, default=math.inf)
                self._changed.wait(None if self._looks_at == math.inf else max(0.0, self._looks_at - now))

    def _give_up(self, watched: Watched) -> None:
        with contextlib.suppress(Exception):  # of a server that hangs as well for who wants to cancel
            cancel_on_server(watched.engine, watched.driver)
        with self._changed, contextlib.suppress(Exception):
            if watched in self._under_way:  # else its connection is somebody else's by now
                opened = socket_of(watched.driver)
                if opened is not None:
                    with opened:
                        opened.shutdown(socket.SHUT_RDWR)


watch = _Watch()


def _watch_anew() -> None:
    watch.__init__()  # type: ignore[misc]  # the parent's thread is not here, and its lock may be held for ever


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_watch_anew)
