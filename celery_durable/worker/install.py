"""What binding the first durable task installs on an app. Everything here is done once, however often
it is called: Celery binds a task's class more than once."""

from __future__ import annotations

import weakref
from typing import Any

from celery import Celery, signals

from ..core.faults import write_error
from ..errors import CallFailed
from .dispatch import event_emitted, queue_dispatch, register_dispatch
from .reporting import end_dropped, register_reports
from .runtime import flush_all, plain_app, runtime_of, stop_handing_out
from .sending import follow

__all__ = ["install", "is_installed"]

_installed: weakref.WeakSet[Celery] = weakref.WeakSet()


def install(app: Any) -> None:
    """Make an app's workers look after durable runs."""
    from .canvas import register_canvas
    from .task import DurableTask

    app = plain_app(app)
    if app in _installed:
        return
    _installed.add(app)
    # By their names: what only a worker needs is imported there.
    app.steps["worker"].add("celery_durable.worker.bootsteps:SweeperStep")
    app.steps["consumer"].add("celery_durable.worker.bootsteps:UnknownTaskStep")
    app.steps["consumer"].add("celery_durable.worker.bootsteps:LastAcknowledgementsStep")
    register_dispatch(app)
    register_reports(app)
    register_canvas(app, DurableTask)
    _cancel_by_revoke(app)
    _connect_signals()


def _cancel_by_revoke(app: Celery) -> None:
    """Where somebody else's control is in use, its ``revoke`` reaches the workers at least."""
    if app.control_cls == Celery.control_cls:
        app.control_cls = "celery_durable.worker.revoking:DurableControl"
        app.__dict__.pop("control", None)  # made before


def is_installed(app: Any) -> bool:
    """Whether an app has durable tasks, or was used as if it had."""
    return app in _installed


def _connect_signals() -> None:
    for signal, receiver in (
        (event_emitted, queue_dispatch),
        (signals.task_revoked, on_task_revoked),
        (signals.task_unknown, on_task_unknown),
        (signals.worker_shutting_down, on_worker_shutting_down),
        (signals.worker_process_shutdown, on_process_end),
        (signals.worker_shutdown, on_process_end),
    ):
        signal.connect(receiver, weak=False, dispatch_uid=f"celery_durable.{receiver.__name__}.{signal.name}")


def on_worker_shutting_down(**_: Any) -> None:
    """Warm shutdown: each pass ends after the step it is in, and another worker goes on with the run."""
    stop_handing_out()


def on_process_end(**_: Any) -> None:
    flush_all()


def on_task_revoked(request: Any = None, sender: Any = None, expired: bool = False, **_: Any) -> None:
    """Celery has refused or killed a message: the run is cancelled, or what a run had called."""
    from .task import DurableTask

    if not isinstance(sender, DurableTask):
        if is_installed(sender.app):
            end_dropped(sender.app, request.id, status="cancelled")
        return
    runtime = runtime_of(sender.app)
    with runtime.store.link() as link:
        aftermath = runtime.store.end_from_outside(link, request.id, status="cancelled", error=None)
        if aftermath is None:
            runtime.store.mark_told(link, request.id)  # it had ended, and Celery has been told now
    if aftermath is not None:
        follow(sender.app, aftermath)


def on_task_unknown(sender: Any = None, name: str | None = None, id: str | None = None, **_: Any) -> None:
    """A worker does not know an ordinary task, and Celery has dropped its message."""
    if id is not None and is_installed(sender.app):
        error = CallFailed(f"the task {name!r} is not registered in the worker {sender.hostname} that got its message")
        end_dropped(sender.app, id, error=write_error(error))
