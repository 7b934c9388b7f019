"""One trace for a run, whoever wakes it: real workers, the real SDK, with CeleryInstrumentor and without."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from celery_durable import DurableTask, step
from celery_durable.contrib.opentelemetry import instrument, uninstrument
from celery_durable.worker import carrying
from celery_durable.worker.runtime import runtime_of
from tests.contrib.monitoring import LIMIT, Monitored
from tests.services import Services
from tests.waiting import wait_until

Span = dict[str, Any]

START = """
from opentelemetry import trace
with trace.get_tracer("site").start_as_current_span("request"):
    for task in (parks, several, awaits, calls):
        print(task.delay().id)
    Durable(app).emit("monitored.event")
with trace.get_tracer("site").start_as_current_span("request"):
    print(parks.delay(True).id)
print(awaits.delay().id)
"""


@dataclass
class Traced:
    """What came of the runs that START has started."""

    spans: list[Span]
    parks: str
    several: str
    awaits: str
    calls: str
    fails: str
    alone: str

    def passes(self, run: str) -> list[Span]:
        found = [span for span in self.spans if span["name"].startswith("run/") and of(span, "run_id") == run]
        return sorted(found, key=lambda span: of(span, "passes"))

    def steps(self, run: str) -> list[Span]:
        return [span for span in self.spans if span["name"].startswith("step ") and of(span, "run_id") == run]

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span["name"] == name]

    def parent(self, span: Span) -> Span | None:
        """Of those that were exported."""
        return next((one for one in self.spans if one["context"]["span_id"] == span["parent_id"]), None)


def of(span: Span, name: str) -> Any:
    return span["attributes"].get(f"durable.{name}")


def traces(spans: list[Span]) -> set[str]:
    return {span["context"]["trace_id"] for span in spans}


@pytest.fixture(
    scope="module",
    params=[
        ("opentelemetry", "prefork"),
        ("opentelemetry,celery-instrumentor", "prefork"),
        ("opentelemetry,celery-instrumentor", "solo"),
    ],
    ids=lambda param: " ".join(param),
)
def traced(request: pytest.FixtureRequest, services: Services, tmp_path_factory: Any) -> Iterator[Traced]:
    services.redis.flush()
    monitors, pool = request.param
    # Each wake-up by time is further away than this, so that it is the sweeper who sends it.
    site = Monitored(tmp_path_factory.mktemp("traced"), services.redis.url, monitors, durable_eta_horizon="1ms")
    try:
        site.work(pool)
        runs = site.python("from celery_durable import Durable", START)
        for run in (runs[0], runs[4]):
            site.wait_until_it_waits(run, "the event 'go'")
        for key in ("True", "False"):
            site.durable.emit("go", key=key)
        for run in runs:
            site.wait_for(run, "failed" if run == runs[4] else "completed")
        ends = {"completed", "failed"}
        # The child and the triggered run have ended, too; the span of a pass is exported after its end is recorded.
        wait_until(
            lambda: len([span for span in site.told() if of(span, "status") in ends]) == len(runs) + 2,
            LIMIT,
            "all passes are exported",
        )
        yield Traced(site.told(), *runs)
    finally:
        site.close()


def test_all_passes_of_a_run_are_one_trace(traced: Traced) -> None:
    [one, other] = traced.named("request")
    assert len(traced.passes(traced.parks)) == 4
    for run, request in ((traced.parks, one), (traced.awaits, one), (traced.calls, one), (traced.fails, other)):
        assert traces(traced.passes(run) + traced.steps(run)) == traces([request])
    assert traces([one]) != traces([other])


def test_a_called_run_is_in_the_trace_of_its_caller(traced: Traced) -> None:
    children = traced.named("run/monitored.child")
    assert [of(span, "status") for span in children] == ["suspended", "completed"]
    assert traces(children) == traces(traced.passes(traced.calls))


def test_a_run_that_an_event_starts_is_in_the_trace_of_the_emitter(traced: Traced) -> None:
    passes = traced.named("run/monitored.triggered")
    assert len(passes) == 2
    assert traces(passes) == traces(traced.passes(traced.parks))


def test_a_parked_pass_is_no_error(traced: Traced) -> None:
    passes = traced.passes(traced.parks)
    assert [of(span, "status") for span in passes] == ["suspended", "suspended", "suspended", "completed"]
    assert [of(span, "passes") for span in passes] == [1, 2, 3, 4]
    assert {span["status"]["status_code"] for span in passes} == {"UNSET"}
    assert of(passes[0], "waiting_on") == "the sleep 'nap' (300ms)"


def test_a_failed_run_is_one_error(traced: Traced) -> None:
    passes = traced.passes(traced.fails)
    assert [span["status"]["status_code"] for span in passes] == ["UNSET"] * 3 + ["ERROR"]
    assert "it failed in the end" in passes[-1]["status"]["description"]
    assert [event["name"] for event in passes[-1]["events"]] == ["exception"]


def test_a_step_is_a_span_of_its_pass(traced: Traced) -> None:
    steps = traced.steps(traced.parks)
    assert [span["name"] for span in steps] == ["step begin", "step flaky", "step flaky", "step bounded"]
    passes = traced.passes(traced.parks)
    assert [traced.parent(span) for span in steps] == [passes[number] for number in (0, 1, 2, 3)]
    assert [of(span, "step_kind") for span in steps] == ["run"] * 4


def test_an_attempt_that_fails_is_an_error(traced: Traced) -> None:
    first, second = (span for span in traced.steps(traced.parks) if span["name"] == "step flaky")
    assert (of(first, "attempt"), of(second, "attempt")) == (1, 2)
    assert first["status"] == {"status_code": "ERROR", "description": "ConnectionError: the line is busy"}
    assert [event["attributes"]["exception.type"] for event in first["events"]] == ["ConnectionError"]
    assert second["status"] == {"status_code": "UNSET"}


@pytest.mark.parametrize("name", ["parks", "several", "awaits"])
def test_what_a_step_does_is_inside_its_span(traced: Traced, name: str) -> None:
    """In the pass's own thread, on threads of a block, on an event loop, and with a timeout."""
    steps = [span for span in traced.steps(getattr(traced, name)) if span["name"] != "step flaky"]
    assert len(steps) >= 2
    inside = [traced.parent(span) for span in traced.named("inside")]
    for span in steps:
        assert inside.count(span) == 1


def test_the_body_goes_on_in_the_span_of_the_pass(traced: Traced) -> None:
    """A step's span does not stay current when the step is over."""
    for span in traced.steps(traced.several) + traced.steps(traced.awaits):
        assert traced.parent(span) in traced.passes(of(span, "run_id"))


def test_there_is_one_span_for_a_pass(traced: Traced) -> None:
    for run in (traced.parks, traced.calls, traced.several):
        passes = traced.passes(run)
        assert [of(span, "passes") for span in passes] == [*range(1, len(passes) + 1)]


def test_a_run_that_is_started_outside_of_any_trace_is_one_trace(traced: Traced) -> None:
    [start] = traced.named("durable start")
    assert len(traced.passes(traced.alone)) == 2
    assert traces(traced.passes(traced.alone)) == traces([start])


def test_it_can_be_done_twice_and_taken_back(tmp_path: Path) -> None:
    app = Celery("eager", set_as_current=False)
    app.conf.update(task_always_eager=True, durable_database_url=f"sqlite:///{tmp_path / 'durable.db'}")
    exported = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))

    @app.task(base=DurableTask, name="traced", shared=False)
    def task() -> None:
        step.run("one", int)

    instrument(provider)
    instrument(provider)
    try:
        task.delay()
    finally:
        uninstrument()
    assert [span.name for span in exported.get_finished_spans()] == ["durable start", "step one", "run/traced"]
    task.delay()
    assert len(exported.get_finished_spans()) == 3
    assert carrying.collected() == {}
    runtime_of(app).store.engine.dispose()


def test_a_carrier_that_fails_keeps_nothing_from_being_started(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def collect(self) -> dict[str, str]:
            raise RuntimeError("no context")

        def attach(self, carried: dict[str, str]) -> Any:
            raise RuntimeError("no context")

    carrying.register("broken", Broken())
    try:
        assert carrying.collected() == {}
        with carrying.attached('{"carried": {"broken": {"a": "b"}}}'):
            pass
    finally:
        carrying.unregister("broken")
    assert len(caplog.records) == 2
