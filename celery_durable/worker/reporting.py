"""How the end of an ordinary task reaches the run that called it.

A durable run answers its caller in the transaction that ends it. An ordinary task knows nothing of that: its message
carries a callback and an errback of this package. Where these get lost, or its message does, the sweeper finds out
(:func:`look_after`): it asks the result backend, the queue and the workers, and sends again what nobody has. A worker
tells in the database which called tasks it has (:func:`held_here`), also while it can't answer; those of other apps
have to be asked.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from celery import Celery, Task, states, uuid
from kombu.serialization import dumps, loads

from ..core.codec import encode, measured
from ..core.faults import bounded_error, write_error
from ..errors import CallFailed, DurableError
from ..store.link import Link
from ..store.records import Aftermath, Due
from .backlog import Backlog
from .message import queue_of
from .runtime import runtime_of
from .sending import Sender, follow, grace

__all__ = [
    "REPORT",
    "end_call",
    "end_dropped",
    "error_text",
    "held_here",
    "look_after",
    "record_end",
    "register_reports",
    "report_links",
    "report_silence",
]

logger = logging.getLogger("celery_durable")

REPORT = "celery_durable.report"
REPORT_ERROR = "celery_durable.report_error"
_SECONDS_FOR_WORKERS = 1.0
_LONGEST_PAUSE = 60
_REPLACED = "Replaced by new task"
"""What Celery raises for a task that has replaced itself by another one, which has its id and its callbacks."""


def report_links(app: Celery, call_id: str, options: dict[str, Any]) -> dict[str, Any]:
    """The callbacks of an ordinary task that is called, after those that it has."""
    queue = runtime_of(app).settings.queue or app.conf.task_default_queue
    told = {"kwargs": {"call_id": call_id}, "options": {"queue": queue}}
    return {
        "link": [*_listed(options.get("link")), app.signature(REPORT, app=app, **told)],
        "link_error": [*_listed(options.get("link_error")), app.signature(REPORT_ERROR, app=app, **told)],
    }


def _listed(links: Any) -> list[Any]:
    if links is None:
        return []
    return list(links) if isinstance(links, (list, tuple)) else [links]


class _Report(Task):
    """Celery sends it when the task that was called has ended. In the worker where that was, it is done on the spot: a
    message that can't be sent makes a failed task of one that has succeeded. A worker of an app with a database of its
    own does not find the call there, and sends the message to the caller's."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        ended = self.app.current_worker_task
        if ended is not None and not ended.request.is_eager and ended.name != self.name:
            try:
                if end_call(self.app, kwargs["call_id"], **_told(*_as_sent(self.app, args), **kwargs)):
                    return self.AsyncResult(options.get("task_id") or uuid())
            except Exception as away:
                logger.warning("the end of %s could not be recorded, a message is sent: %s", kwargs["call_id"], away)
        return super().apply_async(args, kwargs, **options)


def _as_sent(app: Celery, args: Any) -> Any:
    """What a message makes of it: the answer is not to depend on whether there was one."""
    kind, encoding, payload = dumps(args, app.conf.task_serializer)
    return loads(payload, kind, encoding, accept=[kind])


def _told(value: Any = None, *, call_id: str, error: str | None = None) -> dict[str, Any]:
    return {"value": value} if error is None else {"error": error}


def register_reports(app: Celery) -> None:
    """Give an app the tasks that report. Not by ``app.tasks``, which would finalize an app that is not complete yet."""
    options: dict[str, Any] = {
        "shared": False,
        "ignore_result": True,
        "acks_late": True,
        "reject_on_worker_lost": True,
    }

    def report(task: Any, value: Any = None, *, call_id: str, error: str | None = None) -> None:
        try:
            end_call(task.app, call_id, **_told(value, call_id=call_id, error=error))
        except Exception as wrong:
            pause = min(2**task.request.retries, _LONGEST_PAUSE)
            logger.warning("the end of %s could not be recorded, trying again in %d s: %s", call_id, pause, wrong)
            raise task.retry(exc=wrong, countdown=pause, max_retries=None) from wrong

    def report_error(*told: Any, call_id: str) -> None:
        """Called by Celery in the worker where the task failed, with the error; or, by a worker that does not know
        this task, sent with the failed task's id alone."""
        text = error_text(app, told[1]) if len(told) > 1 else _error_from_backend(app, call_id)
        queue = _queue_of_caller(told[0], call_id)
        try:
            if end_call(app, call_id, error=text) or queue is None:
                return
        except Exception as wrong:
            logger.warning("the failure of %s could not be recorded, it is reported by a task: %s", call_id, wrong)
        # Or it is no call of this database.
        app.tasks[REPORT].apply_async((None,), {"call_id": call_id, "error": text}, queue=queue, add_to_parent=False)

    # Of classes of their own, whatever class the app's own tasks have.
    app.task(report, name=REPORT, base=_Report, bind=True, **options)
    app.task(report_error, name=REPORT_ERROR, base=Task, **options)  # bound, it would not be told the error


def _queue_of_caller(request: Any, call_id: str) -> str | None:
    """Where the errback of this call would be sent, of a task that fails in this worker."""
    for errback in getattr(request, "errbacks", None) or ():
        if errback.get("task") == REPORT_ERROR and errback["kwargs"].get("call_id") == call_id:
            queue: str | None = errback["options"].get("queue")
            return queue
    return None


def report_silence(request: Any, raised: BaseException) -> None:
    """A task has ended without a result, and Celery calls nobody back: a run that has called it is told."""
    if _queue_of_caller(request, request.id) is None or str(raised) == _REPLACED:
        return
    error = CallFailed(f"the task {request.name}[{request.id}] ended without a result: it raised {raised!r}")
    request.app.tasks[REPORT_ERROR](request, error, None, call_id=request.id)


def end_call(app: Celery, call_id: str, *, value: Any = None, error: str | None = None, status: str = "") -> bool:
    """Record how a called task has ended, and wake its caller. ``False``: it had ended before."""
    aftermath = record_end(app, call_id, value=value, error=error, status=status)
    if aftermath is None:
        return False
    follow(app, aftermath)
    return True


def record_end(
    app: Celery, call_id: str, *, value: Any = None, error: str | None = None, status: str = ""
) -> Aftermath | None:
    """The same, and nobody is woken."""
    result = None
    if error is None and not status:
        try:
            what = f"the result of {call_id}"
            result = measured(encode(value, what), what, runtime_of(app).settings.max_payload)
        except DurableError as wrong:
            result, error = None, write_error(wrong)
    runtime = runtime_of(app)
    status = status or ("completed" if error is None else "failed")
    with runtime.store.link() as link:
        return runtime.store.end_from_outside(link, call_id, status=status, result=result, error=error)


def _error_from_backend(app: Celery, call_id: str) -> str:
    meta = _meta(app, call_id)
    error = meta.get("result")
    if meta.get("status") != states.FAILURE or not isinstance(error, BaseException):
        error = CallFailed(
            f"the task {call_id} failed in a worker that does not have celery_durable, and the result backend does not "
            "tell why: see that worker's log"
        )
    return error_text(app, error)


def error_text(app: Celery, error: BaseException) -> str:
    """The record of an ordinary task's error."""
    settings = runtime_of(app).settings
    return bounded_error(error, settings.max_payload, redact=settings.redaction.text)


def _meta(app: Celery, call_id: str) -> dict[str, Any]:
    """What the result backend knows of a task, where it can be asked without taking it away."""
    from celery.backends.base import DisabledBackend

    backend = app.backend
    if isinstance(backend, DisabledBackend) or type(backend).__module__.endswith("rpc"):
        return {}
    try:
        return dict(backend.get_task_meta(call_id))
    except Exception as error:
        logger.info("the result backend could not be asked for %s: %s", call_id, error)
        return {}


# ------------------------------------------------------------------- looking after


def look_after(app: Celery, link: Link, calls: list[Due], backlog: Backlog) -> None:
    """See to called tasks that were sent a while ago and have not reported."""
    store = runtime_of(app).store
    silent = [due for due in calls if not _has_ended(app, due)]
    unsent = [due for due in silent if not _is_in_queue(app, due, backlog)]
    others = [due.fence.run_id for due in unsent if due.task not in app.tasks]
    held = _held_by_workers(app, others) if others else set()
    lost = [due for due in unsent if due.fence.run_id not in held]
    Sender(app, backlog).send(link, [replace(due, sends=0) for due in lost])
    store.mark_sent(link, [(due.fence, grace(due.sends), True) for due in silent if due not in lost])
    for due in lost:
        logger.warning("the task %s[%s] has no message and no worker: it was sent again", due.task, due.fence.run_id)


def _is_in_queue(app: Celery, due: Due, backlog: Backlog) -> bool:
    try:
        return backlog.explains(queue_of(app, due.task, due.message), due.sends)
    except Exception:  # what is wrong with it is told where the message is to be made
        return False


def _has_ended(app: Celery, due: Due) -> bool:
    """Whether its end is known from the result backend. It is recorded then."""
    meta = _meta(app, due.fence.run_id)
    status, value = meta.get("status"), meta.get("result")
    if status == states.SUCCESS:
        end_call(app, due.fence.run_id, value=value)
    elif status == states.REVOKED:
        end_call(app, due.fence.run_id, status="cancelled")
    elif status == states.FAILURE:
        error = value if isinstance(value, BaseException) else CallFailed(f"{due.task} failed: {value!r}")
        end_call(app, due.fence.run_id, error=error_text(app, error))
    else:
        return False
    return True


def _held_by_workers(app: Celery, ids: list[str]) -> set[str]:
    """Those of these tasks that a worker of another app has; all of them where no worker answers."""
    try:
        replies = app.control.inspect(timeout=_SECONDS_FOR_WORKERS).query_task(*ids)
    except Exception as error:
        logger.info("the workers could not be asked for called tasks: %s", error)
        replies = None
    if not replies:
        return set(ids)
    return {task_id for found in replies.values() for task_id in found or {}}


def held_here() -> list[str]:
    """The ordinary tasks that this worker has, whether it executes them or has them waiting."""
    from celery.worker import state  # only a worker has any

    from .request import DurableRequest

    for _ in range(3):
        try:
            requests = list(state.reserved_requests)
        except RuntimeError:  # changed by the main thread meanwhile
            continue
        return [request.id for request in requests if not isinstance(request, DurableRequest)]
    return []


def is_open_call(app: Celery, task_id: str) -> bool:
    """Whether a task that Celery has ended by itself was called by a step."""
    runtime = runtime_of(app)
    with runtime.store.link() as link:
        return runtime.store.is_open_call(link, task_id)


def end_dropped(app: Celery, task_id: str, *, status: str = "", error: str | None = None) -> None:
    """Celery has dropped a message: if a step had called it, that step has its answer."""
    if is_open_call(app, task_id):
        end_call(app, task_id, status=status, error=error)
