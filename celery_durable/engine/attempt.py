"""One attempt of a step's function, bounded in time.

How a running function can be stopped depends on where it runs: in the main thread of a process by a
signal, which also interrupts a blocking system call; in a greenlet by gevent. In any other thread
Python can't stop it, so it is left to itself in a thread of its own, its result ignored.
"""

from __future__ import annotations

import asyncio
import contextvars
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from ..core.duration import SECOND, describe
from ..errors import StepTimeout

__all__ = ["awaited", "call", "is_green"]


class _TimeIsUp(BaseException):
    """Raised inside the function; a BaseException, so that ``except Exception`` lets it pass."""


def call(work: Callable[[], Any], timeout: int | None, what: str) -> Any:
    """Call ``work``; raise ``StepTimeout`` when it takes longer than ``timeout`` microseconds."""
    if timeout is None:
        return work()
    seconds = max(timeout / SECOND, 0.001)
    if is_green():
        bounded = _in_greenlet
    elif threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        bounded = _with_alarm
    else:
        bounded = _in_thread
    try:
        return bounded(work, seconds)
    except _TimeIsUp:
        pass
    raise StepTimeout(f"{what} took longer than its timeout of {describe(timeout)}, and was given up")


async def awaited(work: Awaitable[Any], timeout: int | None, what: str) -> Any:
    """The same for an async function, which is cancelled when its time is up."""
    if timeout is None:
        return await work
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=max(timeout / SECOND, 0.001))
    except asyncio.CancelledError:
        task.cancel()
        raise
    if done:
        return task.result()
    task.cancel()
    await asyncio.wait({task})
    raise StepTimeout(f"{what} took longer than its timeout of {describe(timeout)}, and was given up")


def is_green() -> bool:
    """Whether greenlets have taken the place of threads."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def _in_greenlet(work: Callable[[], Any], seconds: float) -> Any:
    import gevent

    with gevent.Timeout(seconds, _TimeIsUp()):
        return work()


def _with_alarm(work: Callable[[], Any], seconds: float) -> Any:
    def ring(_signum: int, _frame: Any) -> None:
        raise _TimeIsUp

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _in_thread(work: Callable[[], Any], seconds: float) -> Any:
    outcome: list[tuple[bool, Any]] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            outcome.append((True, context.run(work)))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=run, name="celery-durable-step", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise _TimeIsUp
    succeeded, value = outcome[0]
    if succeeded:
        return value
    raise value
