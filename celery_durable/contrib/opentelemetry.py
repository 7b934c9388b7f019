"""OpenTelemetry: one trace for a run, over all its passes, and a span for each call of a step's function.

:func:`instrument` goes with ``CeleryInstrumentor`` of opentelemetry-instrumentation-celery, whose span of a task is
then the span of a pass, and makes one itself where that is not in use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, NamedTuple

from celery import signals as celery_signals
from celery import states

from .. import signals
from ..worker import carrying

try:
    from opentelemetry import context as contexts
    from opentelemetry import trace
    from opentelemetry.propagate import extract, inject
    from opentelemetry.propagators.textmap import Getter
except ImportError as error:
    raise ImportError(
        'celery_durable.contrib.opentelemetry needs OpenTelemetry: pip install "celery-durable[opentelemetry]"'
    ) from error

__all__ = ["instrument", "uninstrument"]

_NAME = "celery_durable"
_INTERNAL = "celery_durable."
"""How the names of this package's own tasks begin."""


class _Entered(NamedTuple):
    """A span that is current, and what takes it out again."""

    span: trace.Span
    context: Token[contexts.Context]
    before: _Entered | None


_pass: ContextVar[_Entered | None] = ContextVar("celery_durable_pass_span", default=None)
_step: ContextVar[_Entered | None] = ContextVar("celery_durable_step_span", default=None)
_provider: trace.TracerProvider | None = None


def instrument(tracer_provider: trace.TracerProvider | None = None) -> None:
    """Trace the durable runs of this process, and of those that it forks. Can be called twice.

    Call it where the app is made: the processes that start runs and the workers' main processes, which wake them, have
    to hand on the trace, too. ``tracer_provider`` is the global one if nothing is said, which may be set later.
    """
    global _provider
    _provider = tracer_provider
    carrying.register("opentelemetry", _Carrier())
    for signal, receiver in _RECEIVERS:
        signal.connect(receiver, weak=False, dispatch_uid=_uid(receiver))


def uninstrument() -> None:
    """Take it back."""
    carrying.unregister("opentelemetry")
    for signal, receiver in _RECEIVERS:
        signal.disconnect(receiver, dispatch_uid=_uid(receiver))


def _uid(receiver: Callable[..., None]) -> str:
    return f"celery_durable.opentelemetry.{receiver.__name__}"


def _tracer() -> trace.Tracer:
    # Asked for each time: a worker may set its provider only in the children of its pool. It is a look-up.
    return trace.get_tracer(_NAME, tracer_provider=_provider)


def _celery_is_instrumented() -> bool:
    """Whether ``CeleryInstrumentor`` makes the spans of tasks and puts the trace into messages."""
    module = sys.modules.get("opentelemetry.instrumentation.celery")
    return module is not None and bool(module.CeleryInstrumentor().is_instrumented_by_opentelemetry)


def _enter(current: ContextVar[_Entered | None], span: trace.Span, within: contexts.Context | None = None) -> None:
    token = contexts.attach(trace.set_span_in_context(span, within))
    current.set(_Entered(span, token, current.get()))


def _leave(current: ContextVar[_Entered | None]) -> trace.Span | None:
    entered = current.get()
    if entered is None:
        return None
    current.set(entered.before)
    contexts.detach(entered.context)
    return entered.span


def _failed(span: trace.Span, error: BaseException) -> None:
    span.record_exception(error)
    span.set_status(trace.Status(trace.StatusCode.ERROR, f"{type(error).__name__}: {error}"))


# ------------------------------------------------------------------ over suspensions


class _Carrier:
    """The context of a run's start."""

    def collect(self) -> dict[str, str]:
        carried: dict[str, str] = {}
        if trace.get_current_span().get_span_context().is_valid:
            inject(carried)
            return carried
        # Started outside of any trace: one begins here, for without a root each pass would be a trace of its own.
        with _tracer().start_as_current_span("durable start", kind=trace.SpanKind.PRODUCER):
            inject(carried)
        return carried

    @contextmanager
    def attach(self, carried: dict[str, str]) -> Iterator[None]:
        token = contexts.attach(extract(carried, contexts.Context()))
        try:
            yield
        finally:
            contexts.detach(token)


def _on_publish(headers: Any = None, **_: Any) -> None:
    if isinstance(headers, dict) and not _celery_is_instrumented():
        inject(headers)


# -------------------------------------------------------------------------- passes


class _Headers(Getter[Any]):
    """Reads a message's headers, which are attributes of Celery's request."""

    def get(self, carrier: Any, key: str) -> list[str] | None:
        value = getattr(carrier, key, None)
        return [value] if isinstance(value, str) else None

    def keys(self, carrier: Any) -> list[str]:
        return []


def _on_prerun(task: Any = None, **_: Any) -> None:
    ours = hasattr(task, "write_arguments") or str(getattr(task, "name", "")).startswith(_INTERNAL)
    if ours and not _celery_is_instrumented():
        request = task.request
        parent = None if request.is_eager else extract(request, contexts.Context(), getter=_Headers())
        attributes = {"celery.action": "run", "celery.task_name": task.name, "messaging.message.id": request.id}
        span = _tracer().start_span(
            f"run/{task.name}", context=parent, kind=trace.SpanKind.CONSUMER, attributes=attributes
        )
        _enter(_pass, span, parent)


def _on_postrun(task: Any = None, state: str | None = None, retval: Any = None, **_: Any) -> None:
    ours = hasattr(task, "write_arguments") or str(getattr(task, "name", "")).startswith(_INTERNAL)
    span = _leave(_pass) if ours else None
    if span is not None:
        span.set_attribute("celery.state", str(state))
        if state == states.FAILURE and isinstance(retval, BaseException):
            _failed(span, retval)
        span.end()


def _on_pass(run_id: str = "", passes: int = 1, **_: Any) -> None:
    trace.get_current_span().set_attributes({"durable.run_id": run_id, "durable.passes": passes})


def _on_suspend(waiting_on: str | None = None, **_: Any) -> None:
    _tell("suspended", waiting_on)


def _on_pause(waiting_on: str | None = None, **_: Any) -> None:
    _tell("paused", waiting_on)


def _on_finish(status: str = "", **_: Any) -> None:
    _tell(status, None)


def _tell(status: str, waiting_on: str | None) -> None:
    span = trace.get_current_span()
    span.set_attribute("durable.status", status)
    if waiting_on is not None:
        span.set_attribute("durable.waiting_on", waiting_on)


# --------------------------------------------------------------------------- steps


def _on_step(
    run_id: str = "", step_id: str = "", kind: str = "", attempt: int = 1, function: str | None = None, **_: Any
) -> None:
    attributes: dict[str, str | int] = {
        "durable.run_id": run_id,
        "durable.step_id": step_id,
        "durable.step_kind": kind,
        "durable.attempt": attempt,
    }
    if function is not None:
        attributes["code.function.name"] = function
    _enter(_step, _tracer().start_span(f"step {step_id}", attributes=attributes))


def _on_step_end(error: BaseException | None = None, **_: Any) -> None:
    span = _leave(_step)
    if span is not None:
        if error is not None:
            _failed(span, error)
        span.end()


_RECEIVERS: tuple[tuple[Any, Callable[..., None]], ...] = (
    (celery_signals.before_task_publish, _on_publish),
    (celery_signals.task_prerun, _on_prerun),
    (celery_signals.task_postrun, _on_postrun),
    (signals.run_started, _on_pass),
    (signals.run_resumed, _on_pass),
    (signals.run_suspended, _on_suspend),
    (signals.run_paused, _on_pause),
    (signals.run_finished, _on_finish),
    (signals.step_started, _on_step),
    (signals.step_returned, _on_step_end),
)
