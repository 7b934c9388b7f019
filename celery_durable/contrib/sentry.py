"""Sentry: a run that is parked is no error, one that fails is one error, and all passes of a run are one trace.

:func:`install` goes with ``CeleryIntegration`` of sentry_sdk, which knows neither.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from celery import signals as celery_signals

from .. import signals
from ..engine.current import current_pass, current_step
from ..model import ErrorInfo
from ..worker import carrying
from ..worker.running import Dropped, RunEnded, RunParked

try:
    import sentry_sdk
    from sentry_sdk.integrations.celery import CeleryIntegration
    from sentry_sdk.scope import add_global_event_processor
except ImportError as error:
    raise ImportError('celery_durable.contrib.sentry needs sentry_sdk: pip install "celery-durable[sentry]"') from error

__all__ = ["install"]

_HEADERS = ("sentry-trace", "baggage")
_OF_CALL = "queue.process"
"""The operation of the span that CeleryIntegration makes around the call of a task."""

_installed = False
_carried: ContextVar[dict[str, str] | None] = ContextVar("celery_durable_sentry", default=None)


def install() -> None:
    """Tell Sentry about durable runs. Can be called twice, before ``sentry_sdk.init`` or after it.

    Call it where the app is made: the processes that start runs and the workers' main processes, which wake them, have
    to hand on the trace, too.
    """
    global _installed
    carrying.register("sentry", _Carrier())
    if not _installed:
        _installed = True
        add_global_event_processor(_process)
        # With trace_lifecycle="stream" nothing is left to be put right later: a span is sent as it ends. The only way
        # to tell Sentry before is its own, for what ends web requests and the like.
        no_error = getattr(sentry_sdk.utils, "_register_control_flow_exception", None)
        if no_error is not None:
            no_error({RunParked, RunEnded, Dropped})
    for signal, receiver in _RECEIVERS:
        signal.connect(receiver, weak=False, dispatch_uid=f"celery_durable.sentry.{receiver.__name__}")


# ------------------------------------------------------------------- over suspensions


class _Carrier:
    """The trace of a run's start."""

    def collect(self) -> dict[str, str]:
        if not _traces():
            return {}
        values = (sentry_sdk.get_traceparent(), sentry_sdk.get_baggage())
        return {name: value for name, value in zip(_HEADERS, values, strict=True) if value}

    @contextmanager
    def attach(self, carried: dict[str, str]) -> Iterator[None]:
        token = _carried.set(carried)
        try:
            yield
        finally:
            _carried.reset(token)


def _traces() -> bool:
    integration = sentry_sdk.get_client().get_integration(CeleryIntegration)
    return integration is not None and bool(integration.propagate_traces)


def _on_publish(headers: Any = None, **_: Any) -> None:
    """What CeleryIntegration has put into the message is the trace of the process that wakes the run."""
    carried = _carried.get()
    if carried and isinstance(headers, dict) and _traces():
        headers.update(carried)
        headers["headers"] = {**(headers.get("headers") or {}), **carried}  # where the integration reads them


# ---------------------------------------------------------------------------- passes


@dataclass
class _Pass:
    """The pass that this thread executes, or has executed last."""

    run_id: str
    task: str
    passes: int | None = None
    ended: bool = False
    status: str | None = None
    """What its transaction is to say of it, where CeleryIntegration has it wrong."""


_current: ContextVar[_Pass | None] = ContextVar("celery_durable_sentry_pass", default=None)


def _process(event: Any, hint: Any) -> Any:
    """An event as it is to be sent, or ``None``. All events come by here, whatever sends them."""
    at = _current.get()
    is_transaction = event.get("type") == "transaction"
    # A transaction is sent when its pass is over. Anything else that is said then is said of something else.
    if at is None or (at.ended and (not is_transaction or event.get("transaction") != at.task)):
        return event
    if not is_transaction and _is_old(event):
        return None
    event["tags"] = {**(event.get("tags") or {}), "durable.run_id": at.run_id, "durable.task": at.task}
    contexts = event.setdefault("contexts", {})
    contexts["durable"] = {"run_id": at.run_id, "passes": at.passes}
    if is_transaction and at.status is not None:
        contexts["trace"]["status"] = at.status
        for span in event.get("spans") or ():
            if span.get("op") == _OF_CALL:
                span["status"] = at.status
                span["tags"] = {**(span.get("tags") or {}), "status": at.status}
    return event


def _is_old(event: Any) -> bool:
    """Whether this is said by a body that replays: an earlier pass was here, and has said it."""
    run = current_pass.get()
    if run is None or current_step.get() is not None or event.get("logger") == "celery_durable":
        return False
    return run.is_replaying


def _on_prerun(task: Any = None, task_id: str = "", **_: Any) -> None:
    if not task.request.is_eager:  # then it is a part of what is going on around it
        _current.set(_Pass(task_id, task.name) if hasattr(task, "write_arguments") else None)


def _on_postrun(task: Any = None, task_id: str = "", retval: Any = None, **_: Any) -> None:
    at = _current.get()
    if at is None or at.run_id != task_id:
        return
    at.ended = True
    if isinstance(retval, (RunParked, Dropped)):
        at.status = "ok"
    elif isinstance(retval, RunEnded):
        at.status = "cancelled"
    span = getattr(sentry_sdk.get_current_scope(), "streamed_span", None)
    if span is not None:
        span.set_attributes({"durable.run_id": at.run_id, "durable.task": at.task})
        if at.status is not None:
            span.status = "ok"


def _on_pass(run_id: str = "", passes: int = 1, **_: Any) -> None:
    at = _current.get()
    if at is not None and at.run_id == run_id:
        at.passes = passes


def _on_step(
    step_id: str = "",
    kind: str = "",
    function: str | None = None,
    attempt: int = 1,
    status: str = "waiting",
    seconds: float = 0.0,
    error: ErrorInfo | None = None,
    **_: Any,
) -> None:
    data = {"kind": kind, "function": function, "attempt": attempt, "seconds": seconds}
    if error is not None:
        data["error"] = f"{error.type}: {error.message}"
    sentry_sdk.add_breadcrumb(
        category="durable.step",
        message=f"{step_id}: {'to be tried again' if status == 'waiting' else status}",
        level="info" if error is None else "warning",
        data=data,
    )


_RECEIVERS: tuple[tuple[Any, Callable[..., None]], ...] = (
    (celery_signals.before_task_publish, _on_publish),
    (celery_signals.task_prerun, _on_prerun),
    (celery_signals.task_postrun, _on_postrun),
    (signals.run_started, _on_pass),
    (signals.run_resumed, _on_pass),
    (signals.step_finished, _on_step),
    (signals.step_retried, _on_step),
)
