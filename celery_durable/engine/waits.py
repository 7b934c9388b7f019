"""What the tasks of an event loop wait for: can any of them go on by itself?

A run may be parked when each of its tasks waits for durable things alone. A task waits for a future; this module
follows it, through other tasks, ``gather``, ``wait`` and task groups, to where it comes from.

* A future of a durable verb: it is parked with the run.
* One that nothing here knows (a socket, a timer, a thread): something un-stepped is under way and is let finish.
* A lock, an event, a queue: it depends on who is to release it. If there is anybody outside the tasks who might (an
  open connection, a thread), that is let finish as well.
"""

from __future__ import annotations

import asyncio
import asyncio.locks
import asyncio.queues
import asyncio.tasks
import threading
from collections.abc import Iterable
from enum import IntEnum
from types import FrameType
from typing import Any

from .loop import PassLoop

__all__ = ["Held", "place_of", "what_holds"]

_FRAMES = ("cr_frame", "gi_frame", "ag_frame")
_SHARED = {asyncio.locks.__file__, asyncio.queues.__file__}


class Held(IntEnum):
    """What keeps a task from going on."""

    DURABLE = 0
    SHARED = 1
    """Something that tasks share: a lock, an event, a queue."""
    OUTSIDE = 2
    """Something outside that is not durable."""


def what_holds(loop: PassLoop, durable: set[asyncio.Future[Any]], threads: set[threading.Thread]) -> Held:
    """What holds the task that can go on soonest."""
    found = _Following(loop, durable).of_all(loop.tasks)
    if found is Held.SHARED and _may_be_released(loop, threads):
        return Held.OUTSIDE
    return found


def _may_be_released(loop: PassLoop, threads: set[threading.Thread]) -> bool:
    return (
        loop.connections > 0
        or loop.in_threads > 0
        or any(_is_foreign(one) for one in threading.enumerate() if one not in threads)
    )


def _is_foreign(thread: threading.Thread) -> bool:
    return not thread.name.startswith("celery-durable")


class _Following:
    def __init__(self, loop: PassLoop, durable: set[asyncio.Future[Any]]) -> None:
        self._loop = loop
        self._durable = durable
        self._known: dict[Any, Held] = {}
        self._edges: list[tuple[Any, list[Any]]] | None = None

    def of_all(self, futures: Iterable[Any]) -> Held:
        return max((self.of(future) for future in list(futures) if not future.done()), default=Held.DURABLE)

    def of(self, future: Any) -> Held:
        if future in self._durable:
            return Held.DURABLE
        if future not in self._known:
            self._known[future] = Held.DURABLE  # of a circle, which nobody outside it can end
            self._known[future] = self._look(future)
        return self._known[future]

    def _look(self, future: Any) -> Held:
        if isinstance(future, asyncio.Task):
            # There is no public way to ask; every asyncio since 3.4 has this one.
            waiter = getattr(future, "_fut_waiter", None)
            if waiter is None:
                return Held.OUTSIDE
            if waiter in self._durable or isinstance(waiter, asyncio.Task) or hasattr(waiter, "_children"):
                return self.of(waiter)
            return self._by_code(_innermost(self._loop, future), waiter)
        children = getattr(future, "_children", None)  # of asyncio.gather
        if children is None:
            children = [other for other, fed in self._feeding() if future in fed]
        return self.of_all(children) if children else Held.OUTSIDE

    def _feeding(self) -> list[tuple[Any, list[Any]]]:
        """All futures that tasks and verbs lead to, each with those that it sets."""
        if self._edges is None:
            self._edges, seen = [], set()
            found: list[Any] = [*self._loop.tasks, *self._durable]
            while found:
                future = found.pop()
                if future not in seen:
                    seen.add(future)
                    fed = _fed_by(future)
                    self._edges.append((future, fed))
                    found += fed
        return self._edges

    def _by_code(self, frame: FrameType | None, waiter: Any) -> Held:
        """A plain future tells nothing: who is to set it does, or what awaits it."""
        feeding = [future for future, fed in self._feeding() if waiter in fed]
        if feeding:
            return self.of_all(feeding)
        if frame is None:
            return Held.OUTSIDE
        code, variables = frame.f_code, frame.f_locals
        if code.co_filename == asyncio.tasks.__file__ and code.co_name == "_wait":
            return self.of_all(variables["fs"])
        if code.co_name in ("_aexit", "__aexit__") and hasattr(variables.get("self"), "_tasks"):
            return self.of_all(variables["self"]._tasks)
        return Held.SHARED if code.co_filename in _SHARED else Held.OUTSIDE


def _fed_by(future: Any) -> list[Any]:
    """The futures that are set when this one is: ``gather``, ``shield`` and ``wait_for`` work by such callbacks."""
    found: list[Any] = []
    for callback, _context in getattr(future, "_callbacks", None) or ():
        cells = (_content(cell) for cell in getattr(callback, "__closure__", None) or ())
        found += [value for value in (*cells, *getattr(callback, "args", ())) if asyncio.isfuture(value)]
    return found


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


def _innermost(loop: PassLoop, task: asyncio.Task[Any]) -> FrameType | None:
    """The frame of the coroutine that awaits."""
    awaited: Any = loop.bodies.get(task)
    frame = None
    while awaited is not None:
        frame = next((found for name in _FRAMES if (found := getattr(awaited, name, None)) is not None), frame)
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return frame


def place_of(loop: PassLoop, task: asyncio.Task[Any]) -> str:
    """A task and the line it is at, for people."""
    body: Any = loop.bodies.get(task)
    name = getattr(body, "__qualname__", "task")
    frame = getattr(body, "cr_frame", None)
    return f"{name} ({frame.f_code.co_filename}, line {frame.f_lineno})" if frame is not None else str(name)
