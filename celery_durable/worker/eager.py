"""Calls in eager mode: what a run calls is executed at once, in this process."""

from __future__ import annotations

from celery import Celery

from ..core.codec import decode_arguments
from ..errors import CallFailed
from ..store.records import Aftermath, Due
from .message import message_form
from .reporting import error_text, record_end
from .runtime import runtime_of
from .sending import follow

__all__ = ["execute_eagerly"]


def execute_eagerly(app: Celery, aftermath: Aftermath, *, besides: str | None = None) -> None:
    """Execute the runs that have something to do, but for the one that is being executed.

    Their errors are their callers' to handle, and nothing is sent: a caller that is woken goes on by itself, unless
    nobody is being executed.
    """
    store = runtime_of(app).store
    if aftermath.freed:
        follow(app, Aftermath(freed=aftermath.freed))  # whoever waits for a lock is executed by a worker
    for run_id in aftermath.wake:
        if run_id != besides:
            with store.link() as link:
                due = store.to_send(link, [run_id])
            if due and (besides is None or due[0].status != "suspended"):
                _execute(app, due[0])


def _execute(app: Celery, due: Due) -> None:
    run_id = due.fence.run_id
    task = app.tasks.get(due.task)
    args, kwargs = decode_arguments(due.arguments)
    if due.kind is None and task is not None:
        task.apply(tuple(args), kwargs, task_id=run_id, throw=False)
        return
    if task is None:
        unknown = CallFailed(f"the task {due.task!r} is not registered in this process")
        record_end(app, run_id, error=error_text(app, unknown))
        return
    args, kwargs = message_form(args), message_form(kwargs)
    result = task.apply(tuple(args), kwargs, task_id=run_id, throw=False)
    if result.successful():
        record_end(app, run_id, value=result.result)
    else:
        record_end(app, run_id, error=error_text(app, result.result))
