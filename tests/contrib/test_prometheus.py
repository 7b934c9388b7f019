"""What a scrape finds: of the passes of real workers, and of all runs in the durable database."""

from __future__ import annotations

import contextlib
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import make_url

from celery_durable import Durable, DurableTask, Stats, emit, step
from celery_durable.contrib import prometheus
from celery_durable.contrib.prometheus import DurableCollector, count
from celery_durable.worker.runtime import runtime_of
from tests.contrib.monitoring import LIMIT, Monitored
from tests.proxy import Proxy
from tests.services import Services
from tests.waiting import wait_until
from tests.web.processes import free_port

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scrape:
    """What a scrape brought."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self._samples = [sample for family in self.families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of the samples with these labels."""
        found = [
            sample.value
            for sample in self._samples
            if sample.name == f"celery_durable_{name}" and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None

    def labels(self) -> set[str]:
        ours = [sample for sample in self._samples if sample.name.startswith("celery_durable_")]
        return {label for sample in ours for label in sample.labels}


def scrape(port: int) -> Scrape:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=LIMIT) as answer:
        return Scrape(answer.read().decode())


# ------------------------------------------------------------------ of real workers


@pytest.fixture(scope="module", params=["prefork", "solo"])
def scraped(request: pytest.FixtureRequest, services: Services, tmp_path_factory: Any) -> Iterator[Scrape]:
    """The last scrape of a worker that has executed some runs."""
    services.redis.flush()
    folder: Path = tmp_path_factory.mktemp("scraped")
    port = free_port()
    environment = {"MONITORED_PORT": str(port)}
    if request.param == "prefork":
        (folder / "metrics").mkdir()
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(folder / "metrics")
    site = Monitored(folder, services.redis.url, "prometheus", environment)
    try:
        worker = site.work(request.param)
        runs = site.python("for task in (parks, several, step_fails, waits): print(task.delay().id)")
        site.wait_until_it_waits(runs[0], "the event 'go'")
        site.durable.emit("go", key="False")
        for run, status in zip(runs, ("completed", "completed", "failed", "suspended"), strict=True):
            site.wait_for(run, status)

        def complete() -> Scrape | None:
            # A pass counts itself right after its end is recorded.
            with contextlib.suppress(urllib.error.URLError, ValueError):
                found = scrape(port)
                if found.value("runs_finished_total") == 3 and found.value("runs_suspended_total") == 6:
                    return found
            return None

        yield wait_until(complete, LIMIT, "all passes are counted")
        assert "no scrape sees it" not in worker.log()
    finally:
        site.close()


def test_runs_are_counted_over_all_processes(scraped: Scrape) -> None:
    assert scraped.value("runs_started_total") == 4
    assert scraped.value("runs_started_total", task="monitored.parks") == 1
    assert scraped.value("runs_finished_total", task="monitored.parks", status="completed") == 1
    assert scraped.value("runs_finished_total", task="monitored.step_fails", status="failed") == 1
    assert scraped.value("runs_suspended_total", task="monitored.parks") == 3
    assert scraped.value("runs_resumed_total", task="monitored.parks") == 3
    assert scraped.value("run_duration_seconds_count", task="monitored.parks", status="completed") == 1
    assert 0.3 < (scraped.value("run_duration_seconds_sum", task="monitored.parks") or 0) < 60


def test_steps_are_counted_by_their_functions(scraped: Scrape) -> None:
    work = {"kind": "run", "function": "tests.contrib.monitored.work"}
    assert scraped.value("steps_finished_total", task="monitored.several", status="completed", **work) == 3
    flaky = {"task": "monitored.parks", "function": "tests.contrib.monitored.fails_once"}
    assert scraped.value("steps_finished_total", status="completed", **flaky) == 1
    assert scraped.value("step_retries_total", **flaky) == 1
    assert scraped.value("step_duration_seconds_count", **flaky) == 2
    assert scraped.value("steps_finished_total", task="monitored.step_fails", status="failed") == 1
    assert scraped.value("step_retries_total", task="monitored.step_fails") == 2


def test_no_label_grows_with_the_runs(scraped: Scrape) -> None:
    assert scraped.labels() == {"task", "status", "kind", "function", "le"}


def test_the_worker_tells_of_all_runs_too(scraped: Scrape) -> None:
    assert scraped.value("up") == 1
    assert scraped.value("sweepers") == 1
    assert scraped.value("runs", task="monitored.waits", status="suspended") == 1
    assert scraped.value("runs", task="monitored.waits", status="failed") == 0
    assert scraped.value("runs") == 4


def test_a_pool_of_processes_without_a_directory_is_warned_of(services: Services, tmp_path: Path) -> None:
    services.redis.flush()
    site = Monitored(tmp_path, services.redis.url, "prometheus", {"MONITORED_PORT": str(free_port())})
    try:
        site.work("prefork", concurrency=1).wait_for_line("no scrape sees it: set PROMETHEUS_MULTIPROC_DIR")
    finally:
        site.close()


# --------------------------------------------------------------------- of all runs


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Celery]:
    app = Celery("scraped")
    app.conf.update(
        broker_url="memory://", task_always_eager=True, durable_database_url=f"sqlite:///{tmp_path / 'durable.db'}"
    )

    @app.task(base=DurableTask, name="double", shared=False)
    def double(value: int) -> int:
        return step.run("double", lambda: 2 * value)

    Durable(app).migrate()
    yield app
    runtime_of(app).store.engine.dispose()
    app.close()


def collected(collector: DurableCollector) -> Scrape:
    registry = CollectorRegistry()
    registry.register(collector)
    return Scrape(generate_latest(registry).decode())


def test_the_figures_are_those_of_the_database(app: Celery) -> None:
    collector = DurableCollector(app)
    empty = collected(collector)
    assert empty.value("up") == 1
    assert empty.value("runs") is None
    assert (empty.value("runs_queued"), empty.value("events_undispatched")) == (0, 0)
    assert (empty.value("lag_seconds"), empty.value("sweepers")) == (0, 0)
    app.tasks["double"].delay(2)
    assert collected(collector).value("runs", task="double", status="completed") == 1


def test_an_event_that_nobody_dispatches_is_seen(app: Celery) -> None:
    app.conf.task_always_eager = False
    emit("it.happened", {})
    assert collected(DurableCollector(app)).value("events_undispatched") == 1


def test_to_register_asks_no_database(tmp_path: Path) -> None:
    app = Celery("nowhere", set_as_current=False)
    app.conf.durable_database_url = f"sqlite:///{tmp_path / 'not there' / 'durable.db'}"
    registry = CollectorRegistry(auto_describe=True)
    registry.register(DurableCollector(app))
    found = Scrape(generate_latest(registry).decode())
    assert found.value("up") == 0
    assert found.value("runs_queued") is None


def test_the_scrape_works_while_the_database_is_away(services: Services) -> None:
    with services.postgresql.fresh() as url:
        parsed = make_url(url)
        proxy = Proxy(parsed.host or "", parsed.port or 5432)
        app = Celery("away", set_as_current=False)
        there = parsed.set(host="127.0.0.1", port=proxy.port)
        app.conf.durable_database_url = there.render_as_string(hide_password=False)
        collector = DurableCollector(app)
        Durable(app).migrate()
        assert collected(collector).value("up") == 1
        proxy.cut()
        assert collected(collector).value("up") == 0
        proxy.restore()
        assert collected(collector).value("up") == 1
        runtime_of(app).store.engine.dispose()
        proxy.cut()


def test_a_database_that_does_not_answer_holds_up_no_scrape(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    answering = threading.Event()

    class Slow(Durable):
        def stats(self) -> Stats:
            answering.wait(LIMIT)
            return super().stats()

    monkeypatch.setattr(prometheus, "Durable", Slow)
    monkeypatch.setattr(prometheus, "_PATIENCE", 0.1)
    collector = DurableCollector(app)
    assert collected(collector).value("up") == 0
    assert collected(collector).value("up") == 0  # the first question is still open
    answering.set()
    monkeypatch.setattr(prometheus, "_PATIENCE", LIMIT)
    wait_until(lambda: collected(collector).value("up") == 1, LIMIT, "the database answers")


def test_counting_twice_counts_once(app: Celery) -> None:
    registry = CollectorRegistry()
    count(registry)
    count(registry)
    app.tasks["double"].delay(2)
    found = Scrape(generate_latest(registry).decode())
    assert found.value("runs_started_total", task="double") == 1
    assert found.value("runs_finished_total", task="double", status="completed") == 1
    assert found.value("steps_finished_total", task="double", kind="run") == 1
