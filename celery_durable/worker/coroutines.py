"""``async def`` durable tasks: Celery calls a function, and this one runs an event loop."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from ..engine.attempt import is_green
from ..engine.current import current_pass
from ..engine.passing import Pass
from ..errors import HistoryMismatch

__all__ = ["make_awaited"]


def make_awaited(task: Any) -> None:
    """Let a task class whose function is ``async def`` be called as Celery calls tasks.

    Done before Celery wraps the function for ``autoretry_for``, which has to see the errors. Elsewhere than in a run
    the function is what it was, and returns a coroutine.
    """
    function = inspect.getattr_static(task, "run")
    if not inspect.iscoroutinefunction(inspect.unwrap(task.run)) or hasattr(task.run, "durable_awaited"):
        return
    static = isinstance(function, staticmethod)
    plain = function.__func__ if static else function

    @functools.wraps(plain)
    def run(*args: Any, **kwargs: Any) -> Any:
        coroutine = plain(*args, **kwargs)
        inside = current_pass.get()
        if inside is None or inside.tasks is not None or not _is_executed(task, inside):
            return coroutine
        return _drive(task, inside, coroutine)

    run.durable_awaited = True  # type: ignore[attr-defined]
    task.run = staticmethod(run) if static else run


def _is_executed(task: Any, run: Pass) -> bool:
    """Whether it is this task's run that is being executed, and not another one's, which calls the function."""
    request: Any = task._get_app().tasks[task.name].request
    return bool(request.id == run.run_id)


def _drive(task: Any, run: Pass, coroutine: Coroutine[Any, Any, Any]) -> Any:
    if is_green():
        coroutine.close()
        # Parked for a worker that can: one that starts takes up what was paused because of its code.
        run.unwinding = HistoryMismatch(
            f"the task {task.name} is an async def function, and this worker's pool is gevent or eventlet, where event "
            "loops of several tasks get into each other's way: have it run by a worker with the prefork, threads or "
            "solo pool"
        )
        raise run.unwinding
    from ..engine.tasks import drive  # the event loop's side: a worker has imported it before its pool forks

    if asyncio._get_running_loop() is None:
        return drive(run, coroutine)
    return _beside(lambda: drive(run, coroutine))  # eager mode, called from a coroutine


def _beside(work: Callable[[], Any]) -> Any:
    """Do it on a thread of its own, as this one has an event loop running."""
    outcome: list[Any] = []
    context = contextvars.copy_context()

    def call() -> None:
        try:
            outcome.append((context.run(work), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=call, name="celery-durable-loop", daemon=True)
    thread.start()
    thread.join()
    value, error = outcome[0]
    if error is not None:
        raise error
    return value
