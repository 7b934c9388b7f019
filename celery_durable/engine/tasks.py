"""A pass of an ``async def`` task: its verbs, each awaited by some task of the event loop.

The tasks run as asyncio runs them, until none can go on by itself (``loop.py`` tells when). Then one thing is done:

1. The next answer is handed over, in the order in which answers were given when they were new. Only one, and then the
   tasks run on: so a replay sees what the first pass saw, whoever of ``gather`` or ``wait`` was first.
2. What has ended here is recorded, all that is ready together as one, and handed over as above.
3. While functions are at work here, or something un-stepped is under way, that is waited for; what others do beside
   them (calls, waits for events) is begun, and heard of.
4. Else every task waits for durable things alone, and the run is parked.

A step that asyncio cancels (``asyncio.timeout``, a task group, the loser of ``asyncio.wait``) is recorded as cancelled
at this place in the order, and a replay leaves it unanswered until it is cancelled again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any

from ..core.duration import SECOND
from ..errors import DurableError, RunCancelled
from .branch import Act, Attempt, Branch, Done, Ready, Waiting
from .control import RunRetry, Stopped, Unwind
from .passing import Pass
from .performing import FunctionAttempt
from .turns import LOOK_EVERY, RECORD, Turns
from .waits import Held, place_of, what_holds
from .watching import watching

__all__ = ["Tasks", "drive"]

logger = logging.getLogger("celery_durable")

_MOST_THREADS = 100
_TELL_AFTER = 10.0
"""Seconds for which something that is not durable may keep a run from being parked before that is told."""
_PATIENCE_AT_END = 5.0

_CANCELLING = Waiting(None, "its cancelling")
_SHUTTING_DOWN = Waiting(None, "another worker, this one is shutting down")


class Tasks(Turns):
    """The verbs of one pass."""

    def __init__(self, run: Pass) -> None:
        super().__init__(run)
        self._in_threads = 0
        self._queued: deque[Callable[[], None]] = deque()
        self._held_since: float | None = None
        self._is_left = False
        self.main: asyncio.Task[Any] | None = None

    # ------------------------------------------------------------------- verbs

    async def complete(self, branch: Branch) -> Any:
        """Bring a branch to its answer."""
        try:
            return await self._complete(branch)
        except asyncio.CancelledError:
            self._give_up(branch)
            raise
        except BaseException:
            if self.run.unwinding is not None:
                self._leave(self.run.unwinding)
            raise

    async def _complete(self, branch: Branch) -> Any:
        while True:
            self._check_open()
            with self.run.reading("step", branch.id):
                state = branch.look()
            if isinstance(state, Done):
                await self._turn(branch)
                return branch.answer()
            if self._is_cancelling():
                await self._wait(branch, _CANCELLING)
            elif isinstance(state, Act):
                self._flush()
                with self.run.reading("step", branch.id):
                    state.do()
            elif isinstance(state, Ready):
                await self._attempt(branch, state)
            else:
                await self._wait(branch, state)

    def _check_open(self) -> None:
        if self.run.unwinding is not None:
            raise self.run.unwinding
        if self._closing:
            raise asyncio.CancelledError("the run has ended")

    def _is_cancelling(self) -> bool:
        return self.run.is_to_end() is not None

    # ---------------------------------------------------------------- attempts

    async def _attempt(self, branch: Branch, state: Ready) -> None:
        run, attempt = self.run, state.attempt
        if run.dispatcher.stopping():
            await self._wait(branch, _SHUTTING_DOWN)
        started = attempt.begin()
        if started is not None:
            self._flush()
            run.write(started)
        worker = asyncio.current_task()
        assert worker is not None
        self._at_work.add(worker)
        try:
            if isinstance(attempt, FunctionAttempt) and attempt.is_async:
                await attempt.await_()
            else:
                await self._in_thread(attempt.call)
        except asyncio.CancelledError:
            attempt.abandon()
            raise
        finally:
            self._at_work.discard(worker)
        if isinstance(self.run.unwinding, Stopped):
            self._keep_for_later(attempt)
            await self._wait(branch, RECORD)  # until all have ended, and the body is left
        self._check_open()
        row = attempt.conclude()
        if row is not None:
            self._ended.append(row)
            await self._wait(branch, RECORD)

    def _keep_for_later(self, attempt: Attempt) -> None:
        try:
            row = attempt.conclude()
        except Unwind:  # it was a transaction: nothing is left of it
            return
        if row is not None:
            self.run.keep_for_later(row)

    async def _in_thread(self, work: Callable[[], None]) -> None:
        """Call a function on a thread of its own; the loop goes on."""
        future: asyncio.Future[None] = self.loop.create_future()
        context = copy_context()

        def call() -> None:
            error = None
            try:
                context.run(work)
            except BaseException as raised:
                error = raised
            try:
                self.loop.call_soon_threadsafe(ended, error)
            except RuntimeError:  # the loop is closed: nobody waits for this any more
                logger.info("run %s: a step's function went on after its pass had ended", self.run.run_id)

        def ended(error: BaseException | None) -> None:
            self._in_threads -= 1
            if self._queued:
                self._queued.popleft()()
            if not future.done():
                future.set_exception(error) if error is not None else future.set_result(None)

        def start() -> None:
            self._in_threads += 1
            thread = threading.Thread(target=call, name="celery-durable-step", daemon=True)
            thread.start()
            if not self.run.uses_threads:
                thread.join()  # not without a thread: the function may run an event loop of its own

        if self._in_threads < _MOST_THREADS:
            start()
        else:
            self._queued.append(start)
        await future

    # -------------------------------------------------------------------- idle

    def idle(self) -> float | None:
        """Every task waits. Do what lets one of them go on; or say how long to wait for what is under way."""
        if isinstance(self.run.unwinding, Stopped) and not self._is_left and not self._at_work:
            self._leave(self.run.unwinding)
            return 0
        if self._closing or self.run.unwinding is not None:
            return 0 if self._let_due_ring() else self._until_timer()
        try:
            return self._go_on()
        except Unwind as unwind:
            self._leave(unwind)
        except RunCancelled as cancelled:
            self._throw(cancelled)
        except Exception as error:  # of a verb that was awaited: it is for the body
            self._throw(error)
        return 0

    def _go_on(self) -> float | None:
        if self._hand_over() or self._record() or self._hand_over_fresh() or self._let_due_ring():
            return 0
        if self.clock.frozen and self._run_clock():
            return 0
        if self._wake_due():
            return 0
        undone = [opened.branch for opened in self._open.values() if not opened.branch.is_done()]
        if self._is_cancelling() and undone and self.run.check_cancelling(*undone):
            self._look_again()
            return 0
        if self._at_work:
            return self._wait_for_work()
        if any(opened.waiting is _SHUTTING_DOWN for opened in self._open.values()):
            self.run.check_stopping()
        if what_holds(self.loop, self.futures(), self._threads) is Held.OUTSIDE:
            return self._wait_for_outside()
        self._held_since = None
        if self._open:
            self._park()
            return 0
        return self._end_of_the_road()

    def _run_clock(self) -> bool:
        """The replay is over, or waits for something un-stepped: whether something rings."""
        if self._unseen and self._let_sleepers_ring(math.inf):
            return True
        if self._unseen and not self._has_waited_long() and self._may_come_first():
            return False  # a socket, a thread: that takes its time here, too
        self.loop.run_clock()
        return self._until_timer() == 0

    def _until_timer(self) -> float | None:
        """Seconds until the next timer rings."""
        timers = self.loop.timers()
        return max(0.0, timers[0].when() - self.loop.time()) if timers else None

    def _has_waited_long(self) -> bool:
        return self._held_since is not None and time.monotonic() - self._held_since > _TELL_AFTER

    # ------------------------------------------------------------------ waiting

    def _wait_for_work(self) -> float | None:
        if self._open_and_hear():
            return 0
        until_timer = self._until_timer()
        limits = [] if until_timer is None or self.clock.frozen else [until_timer]
        waits = [opened.waiting for opened in self._open.values() if opened.waiting is not None]
        limits += [LOOK_EVERY] if any(waiting.outside for waiting in waits) else []
        now = self.run.now()
        limits += [max(0.001, (waiting.until - now) / SECOND) for waiting in waits if waiting.until is not None]
        return min(limits, default=None)

    def _wait_for_outside(self) -> float | None:
        now = time.monotonic()
        self._held_since = self._held_since or now
        if self._has_waited_long():
            self._held_since = now
            places = ", ".join(sorted(place_of(self.loop, task) for task in self.loop.tasks))
            logger.warning(
                "run %s can't be parked: something that is not durable has been awaited for %d s, and the run holds "
                "its worker meanwhile. Its tasks: %s",
                self.run.run_id,
                _TELL_AFTER,
                places,
            )
        seconds = self._wait_for_work()
        return min(_TELL_AFTER, seconds) if seconds is not None else _TELL_AFTER

    def _end_of_the_road(self) -> float | None:
        until_timer = self._until_timer()
        if until_timer is not None:
            return until_timer
        places = ", ".join(sorted(place_of(self.loop, task) for task in self.loop.tasks))
        raise DurableError(
            f"run {self.run.run_id} can't go on: its tasks wait for each other, and nobody else can let one go on "
            f"({places}). Look for a lock that is not released, an event that is not set, a queue that is not filled"
        )

    # ------------------------------------------------------------------ leaving

    def _leave(self, unwind: BaseException) -> None:
        """The body is being left: every task raises that where it waits."""
        self.run.unwinding = self.run.unwinding or unwind
        self.loop.run_clock()
        if isinstance(self.run.unwinding, Stopped) and self._at_work:
            return  # they are let finish before
        self._is_left = True
        for task in list(self.loop.tasks):
            if task is not asyncio.current_task(self.loop):
                self.loop.throw(task, self.run.unwinding)

    def _throw(self, error: BaseException) -> None:
        """Raise an error in the body where it has come to; its other tasks are cancelled."""
        self.loop.run_clock()
        for task in list(self.loop.tasks):
            if task is not self.main:
                task.cancel()
        if self.main is not None:
            self.loop.throw(self.main, error)

    def keep(self) -> None:
        """The body has ended: record what is not recorded yet."""
        self._flush()

    def close(self) -> None:
        """End what the body has left behind, and the loop."""
        self._closing = True
        loop = self.loop
        left = [task for task in loop.tasks if not task.done()]
        if left and self.main not in left and self.run.unwinding is None:
            logger.warning(
                "run %s: its body has ended and left tasks behind, which are cancelled: %s. Await them, or use a "
                "asyncio.TaskGroup",
                self.run.run_id,
                ", ".join(sorted(place_of(self.loop, task) for task in left)),
            )
        loop.run_clock()
        for task in left:
            task.cancel()
        if left:
            _, stubborn = loop.run_until_complete(asyncio.wait(left, timeout=_PATIENCE_AT_END))
            if stubborn:
                logger.error(
                    "run %s: tasks do not end though they are cancelled: %s",
                    self.run.run_id,
                    ", ".join(sorted(place_of(self.loop, task) for task in stubborn)),
                )
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.watch(None)
        loop.close()


def drive(run: Pass, body: Coroutine[Any, Any, Any]) -> Any:
    """Run the body of an ``async def`` task to its end, or until the run is parked."""
    tasks = Tasks(run)
    run.tasks = tasks
    loop = tasks.loop
    loop.set_exception_handler(_drop_unwinding)
    loop.watch(tasks)
    tasks.main = loop.main_task(body)
    try:
        with watching(loop, run.run_id):
            return loop.run_until_complete(tasks.main)
    except RunRetry:
        tasks.keep()  # the body starts over, and is to find what it has been told
        raise
    except asyncio.CancelledError:
        raise DurableError(
            f"the body of run {run.run_id} was ended by asyncio.CancelledError: something it awaited was cancelled, "
            "and that was not caught"
        ) from None
    finally:
        tasks.close()
        run.tasks = None


def _drop_unwinding(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A task that nobody awaits is left by the same exception as all others: that is no error."""
    if not isinstance(context.get("exception"), (Unwind, RunCancelled)):
        loop.default_exception_handler(context)
