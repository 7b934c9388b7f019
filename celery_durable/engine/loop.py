"""The event loop of one pass of an ``async def`` task.

An ordinary asyncio loop with two things of its own, both by what asyncio provides for it. Its *selector* tells when
the loop is about to block, which is when no task can go on by itself: then the pass (``tasks.py``) hands over answers,
or parks the run. And its *clock* is the run's: while a pass replays, it stands where the recorded answers stood, so
that an ``asyncio.timeout`` around a step, which may span a long sleep and many passes, ends when it would have
ended had the run never been parked.

A timer that rings is something that the body is told, like an answer: it is recorded (``asyncio.timeout``, by its
branch and number), and a replay lets it ring at the same place and at no other. The ends of ``asyncio.sleep`` are not:
a body may have many, and they are placed by their time.
"""

from __future__ import annotations

import asyncio
import contextvars
import selectors
import time
import weakref
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from functools import partial
from typing import Any, Protocol

from ..core.ids import numbered
from ..store.steady import Steady
from .current import current_branch

__all__ = ["TIMER", "Clock", "Idle", "PassLoop", "Timer"]

TIMER = "asyncio.timeout"
"""The name under which a timer that rings is recorded."""


_AT_THE_LATEST = 1.0
"""Seconds for which a timer that is due waits until all tasks do."""


class Idle(Protocol):
    """Asked when the loop is about to block."""

    def idle(self) -> float | None:
        """How long to block, in seconds: 0 where something was done, ``None`` for as long as it takes."""

    def rings_late(self, timer: Timer) -> None:
        """Told that a timer rings though not all tasks wait."""


class Timer(asyncio.TimerHandle):
    """What the loop was asked to call at a time."""

    def __init__(self, name: str | None, when: float, loop: PassLoop, context: Any, callback: Any, *args: Any) -> None:
        super().__init__(when, callback, args, loop, context)
        self.name = name
        """How a replay finds it again; ``None`` for the end of an ``asyncio.sleep``."""
        self.call = (callback, args, context)
        self.scheduled: asyncio.TimerHandle | None = None

    def cancel(self) -> None:
        super().cancel()
        if self.scheduled is not None:
            self.scheduled.cancel()


class Clock:
    """Seconds since the run began. Frozen while a pass replays."""

    def __init__(self, began: int, now: Callable[[], int]) -> None:
        self._began = began
        self._now = now
        self._at: float | None = 0.0

    @property
    def frozen(self) -> bool:
        """Whether the clock stands where a replay has come to."""
        return self._at is not None

    def time(self) -> float:
        return self.at(self._now()) if self._at is None else self._at

    def at(self, instant: int) -> float:
        """An instant of the database's clock by this one."""
        return max(0.0, (instant - self._began) / 1_000_000)

    def instant(self, time: float) -> int:
        """A time of this clock by the database's."""
        return self._began + round(time * 1_000_000)

    def advance(self, time: float) -> None:
        """The replay has come to this time."""
        if self._at is not None:
            self._at = max(self._at, time)

    def run(self) -> None:
        """The replay is over: from here on it is now."""
        self._at = None


class _Selector(selectors.DefaultSelector):
    """Asks before it blocks."""

    asked: Idle | None = None
    steady = Steady()
    busy_since: float | None = None
    is_busy: Callable[[], bool] = staticmethod(lambda: False)
    """Whether something from outside is waited for, which takes its time."""

    def select(self, timeout: float | None = None) -> Any:
        self.busy_since = None
        try:
            return self._select(timeout)
        finally:
            self.busy_since = time.monotonic()

    def _select(self, timeout: float | None) -> Any:
        if self.asked is None or (timeout is not None and timeout <= 0):
            return super().select(timeout)
        events = super().select(0)
        if events:
            return events
        seconds = self.asked.idle()
        if seconds and not self.is_busy() and self.steady.skip(seconds):
            return super().select(0)
        events = super().select(seconds)
        if seconds and not events:
            self.steady.skip(seconds)
        return events


class _Led:
    """A task's coroutine, in which something else than ``CancelledError`` may be raised when the task is cancelled."""

    def __init__(self, coro: Coroutine[Any, Any, Any], thrown: dict[asyncio.Task[Any] | None, BaseException]) -> None:
        self._coro = coro
        self._thrown = thrown

    def __await__(self) -> Generator[Any, Any, Any]:
        coro = self._coro
        go_on: Callable[[], Any] = partial(coro.send, None)
        while True:
            try:
                awaited = go_on()
            except StopIteration as end:
                return end.value
            try:
                value = yield awaited
            except asyncio.CancelledError as error:
                go_on = partial(coro.throw, self._thrown.pop(asyncio.current_task(), error))
            except BaseException as error:
                go_on = partial(coro.throw, error)
            else:
                go_on = partial(coro.send, value)


class PassLoop(asyncio.SelectorEventLoop):
    """The event loop of one pass."""

    def __init__(self, clock: Clock, steady: Steady) -> None:
        self._selector_of_pass = _Selector()
        self._selector_of_pass.steady = steady
        self._selector_of_pass.is_busy = lambda: bool(self.in_threads or self.connections)
        super().__init__(self._selector_of_pass)
        self.clock = clock
        self.plain_fds = len(self._selector_of_pass.get_map())
        self.tasks: set[asyncio.Task[Any]] = set()
        self.bodies: weakref.WeakKeyDictionary[asyncio.Task[Any], Coroutine[Any, Any, Any]] = (
            weakref.WeakKeyDictionary()
        )
        self._thrown: dict[asyncio.Task[Any] | None, BaseException] = {}
        self.in_threads = 0
        self._timers: set[Timer] = set()
        self._due: list[Timer] = []
        self._names: dict[str, int] = {}
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]

    def watch(self, asked: Idle | None) -> None:
        """Ask this one before blocking."""
        self._selector_of_pass.asked = asked

    def time(self) -> float:
        return self.clock.time()

    @property
    def busy_since(self) -> float | None:
        """Since when code has been running that awaits nothing."""
        return self._selector_of_pass.busy_since

    # What a task may wait for besides durable things.

    @property
    def connections(self) -> int:
        """File descriptors that somebody listens to."""
        return len(self._selector_of_pass.get_map()) - self.plain_fds

    def run_in_executor(self, executor: Executor | None, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        future = super().run_in_executor(executor, func, *args)
        self.in_threads += 1
        future.add_done_callback(self._left_thread)
        return future

    def _left_thread(self, _future: Any) -> None:
        self.in_threads -= 1

    # Timers. While the clock is frozen none rings by itself.

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Timer:  # type: ignore[override]
        name = None
        if getattr(callback, "__name__", "") != "_set_result_unless_cancelled":  # what asyncio.sleep asks for
            name = numbered(f"{current_branch.get()}{TIMER}", self._count(f"{current_branch.get()}{TIMER}"))
        timer = Timer(name, when, self, context, callback, *args)
        self._timers.add(timer)
        if not self.clock.frozen:
            self._schedule(timer)
        return timer

    def run_clock(self) -> None:
        """The replay is over: from here on it is now, and timers ring."""
        if self.clock.frozen:
            self.clock.run()
            for timer in self.timers():
                self._schedule(timer)

    def timers(self) -> list[Timer]:
        """Those that are to ring, by their time."""
        self._timers = {timer for timer in self._timers if not timer.cancelled()}
        return sorted(self._timers, key=lambda timer: timer.when())

    def ring(self, timer: Timer) -> None:
        """Let a timer ring now."""
        self._timers.discard(timer)
        callback, args, context = timer.call
        timer.cancel()
        self.call_soon(callback, *args, context=context)

    def _schedule(self, timer: Timer) -> None:
        timer.scheduled = super().call_at(timer.when(), self._rings, timer)

    def _rings(self, timer: Timer) -> None:
        """A timer is due. It rings when all tasks wait, one at a time; at the latest after a while."""
        if timer.cancelled():
            return
        if timer.name is None:
            self.ring(timer)
        elif timer in self._due:
            if self._selector_of_pass.asked is not None:
                self._selector_of_pass.asked.rings_late(timer)
            self.ring(timer)
        else:
            self._due.append(timer)
            timer.scheduled = super().call_at(self.time() + _AT_THE_LATEST, self._rings, timer)

    def take_due(self) -> Timer | None:
        """The first timer that is due."""
        self._due = [timer for timer in self._due if not timer.cancelled()]
        return self._due.pop(0) if self._due else None

    def _count(self, name: str) -> int:
        count = self._names[name] = self._names.get(name, 0) + 1
        return count

    # Steps without an id of their own are numbered within their branch, which is their task: named by its function,
    # and by the order in which the task that started it starts tasks of that function.

    def main_task(self, body: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """The task of the body, which is a branch without a name."""
        return self._watched(body, asyncio.Task(self._lead(body), loop=self))

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        name = f"{current_branch.get()}{getattr(coro, '__name__', 'task')}"
        label = f"{numbered(name, self._count(name))}/"
        context: contextvars.Context | None = options.get("context")
        if context is not None:
            context.run(current_branch.set, label)
            task = asyncio.Task(self._lead(coro), loop=loop, **options)
        else:
            token = current_branch.set(label)
            task = asyncio.Task(self._lead(coro), loop=loop, **options)
            current_branch.reset(token)
        return self._watched(coro, task)

    def _watched(self, coro: Coroutine[Any, Any, Any], task: asyncio.Task[Any]) -> asyncio.Task[Any]:
        self.tasks.add(task)
        self.bodies[task] = coro
        task.add_done_callback(self._has_ended)
        return task

    def _has_ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        self.bodies[task].close()  # one that was cancelled before it began

    # Leaving the body is done by cancelling its tasks, each of which raises something else instead.

    def throw(self, task: asyncio.Task[Any], error: BaseException) -> None:
        """Raise this in a task, where it waits."""
        self._thrown[task] = error
        task.cancel()

    async def _lead(self, coro: Coroutine[Any, Any, Any]) -> Any:
        return await _Led(coro, self._thrown)
