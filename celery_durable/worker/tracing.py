"""What Celery's tracer makes of a pass that has nothing to tell.

A pass that parks its run ends in an ``Ignore``. Of that the tracer makes a copy of the whole traceback, twice, with all
positions in the code of each frame, and sends one to the worker's main process: 2 ms of the processor, and 200 KB that
live until Python's full collection. Nobody reads them. So the tracer of durable tasks is built with a ``TraceInfo``
that takes the traceback away first.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from celery import Task
from celery.app import trace
from celery.exceptions import Ignore

__all__ = ["tracer_of"]


def _nothing() -> Any:
    yield


_NOWHERE = TracebackType(None, _nothing().gi_frame, 0, _nothing.__code__.co_firstlineno)
"""Celery takes one apart, whatever it is. That of a generator which never began holds nothing."""


class _NothingToTell(trace.TraceInfo):
    """How a message ended; where it was that there is nothing to tell is not kept."""

    __slots__ = ()

    def __init__(self, state: str, retval: Any = None) -> None:
        super().__init__(state, retval)
        if isinstance(retval, Ignore):
            retval.__traceback__ = _NOWHERE


def tracer_of(task: Task, made: Any) -> Any:
    """What executes the messages of a durable task in a worker, in the place of the tracer that Celery has made. One of
    somebody else's is left as it is; and who replaces what makes them, as Sentry does, makes this one, too."""
    if getattr(made, "__name__", None) != "trace_task":
        return made
    return trace.build_tracer(task.name, task, task.app.loader, Info=_NothingToTell, app=task.app)
