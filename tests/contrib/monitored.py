"""The app that the processes of the monitoring tests load. What monitors it is said by the environment, and writes
what it is told into a file, a line of JSON each."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from celery import Celery, signals

from celery_durable import DurableTask, Event, Retry, on_event, step

MONITORS = os.environ["MONITORS"].split(",")

logger = logging.getLogger(__name__)
app = Celery("monitored")
app.conf.update(json.loads(os.environ["MONITORED_CONFIG"]))


def tell(line: dict[str, Any]) -> None:
    with Path(os.environ["MONITORED_OUT"]).open("a") as out:
        out.write(json.dumps({"pid": os.getpid(), **line}, default=str) + "\n")


# ------------------------------------------------------------------------ monitors


def monitor_by_opentelemetry() -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    from celery_durable.contrib.opentelemetry import instrument

    class ToFile(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            for span in spans:
                tell(json.loads(span.to_json()))
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ToFile()))
    trace.set_tracer_provider(provider)
    instrument()
    if "celery-instrumentor" in MONITORS:
        from opentelemetry.instrumentation.celery import CeleryInstrumentor

        # As its documentation says: in the processes that execute tasks, and where they are started.
        signals.worker_process_init.connect(lambda **_: CeleryInstrumentor().instrument(), weak=False)
        if "starter" in os.environ:
            CeleryInstrumentor().instrument()


def monitor_by_sentry() -> None:
    import sentry_sdk
    from sentry_sdk.envelope import Envelope
    from sentry_sdk.transport import Transport

    from celery_durable.contrib.sentry import install

    class ToFile(Transport):
        def capture_envelope(self, envelope: Envelope) -> None:
            for item in envelope.items:
                tell({"type": item.type, "payload": item.payload.json or json.loads(item.payload.get_bytes())})

    lifecycle: dict[str, Any] = {"_experiments": {"trace_lifecycle": "stream"}} if "sentry-stream" in MONITORS else {}
    sentry_sdk.init(dsn="http://key@127.0.0.1:1/1", transport=ToFile, traces_sample_rate=1.0, **lifecycle)
    if "sentry" in MONITORS:
        install()


def monitor_by_prometheus() -> None:
    from celery_durable.contrib.prometheus import count, serve

    count()
    signals.worker_ready.connect(
        lambda **_: serve(app, int(os.environ["MONITORED_PORT"]), "127.0.0.1"), weak=False, dispatch_uid="serve"
    )


if "opentelemetry" in MONITORS:
    monitor_by_opentelemetry()
if any(name.startswith("sentry") or name == "plain-sentry" for name in MONITORS):
    monitor_by_sentry()
if "prometheus" in MONITORS:
    monitor_by_prometheus()


# --------------------------------------------------------------------------- tasks


def work(value: Any = None) -> Any:
    note("inside")
    return value


def note(name: str) -> None:
    """A span of somebody else's, such as an HTTP client makes one."""
    if "opentelemetry" in MONITORS:
        from opentelemetry import trace

        with trace.get_tracer("client").start_as_current_span(name):
            pass


def fails_once() -> str:
    if step.current().attempt == 1:
        raise ConnectionError("the line is busy")
    return "through"


def fails() -> None:
    raise ConnectionError("there is no line")


@app.task(base=DurableTask, name="monitored.parks", step_retry=Retry(max_attempts=2, delay=0.1))
def parks(fail: bool = False) -> str:
    """Parked by a sleep, by a failed attempt and by a wait."""
    step.run("begin", work, 1)
    step.sleep("nap", 0.3)
    step.run("flaky", fails_once)
    step.wait_for_event("go", key=str(fail), timeout="30s")
    step.options(timeout="20s").run("bounded", work)
    if fail:
        raise ValueError("it failed in the end")
    return "done"


@app.task(base=DurableTask, name="monitored.several")
def several() -> list[int]:
    """Steps on threads."""
    with step.parallel() as block:
        futures = [block.run(f"thread-{number}", work, number) for number in range(3)]
    return [future.result() for future in futures]


@app.task(base=DurableTask, name="monitored.awaits")
async def awaits() -> str:
    from celery_durable.aio import step as awaitable

    await awaitable.run("async", awork)
    await awaitable.sleep("nap", 0.2)
    await awaitable.options(timeout="20s").run("thread", work)
    return "done"


async def awork() -> None:
    note("inside")


@app.task(base=DurableTask, name="monitored.calls")
def calls() -> str:
    return step.call("child", child.s())


@app.task(base=DurableTask, name="monitored.child")
def child() -> str:
    step.sleep("nap", 0.2)
    return "grown"


@app.task(base=DurableTask, name="monitored.triggered", triggers=[on_event("monitored.*")])
def triggered(event: Event) -> str:
    step.sleep("nap", 0.2)
    return event.name


@app.task(base=DurableTask, name="monitored.step_fails", step_retry=Retry(max_attempts=3, delay=0.1))
def step_fails() -> None:
    step.run("hopeless", fails)


@app.task(base=DurableTask, name="monitored.complains")
def complains() -> str:
    """A body that catches an error and tells of it, and would do so at each replay."""
    try:
        step.options(retry=Retry(max_attempts=1)).run("hopeless", fails)
    except ConnectionError:
        logger.exception("it was hopeless")
    step.sleep("nap", 0.2)
    step.run("after", work)
    step.sleep("another nap", 0.2)
    return "done"


@app.task(base=DurableTask, name="monitored.waits")
def waits() -> None:
    step.wait_for_event("never", timeout="1h")


@app.task(name="monitored.ordinary")
def ordinary() -> None:
    """Not durable: what it raises is reported as ever."""
    raise KeyError("ordinary")
