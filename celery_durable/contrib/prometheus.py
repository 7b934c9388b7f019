"""Prometheus: what the passes of this process do is counted, and how all runs are doing is read at each scrape.

:func:`count` is for workers: counters and histograms that the signals of :mod:`celery_durable.signals` move.
:class:`DurableCollector` reads the durable database, and says the same from whichever process it is asked in.
:func:`serve` answers scrapes with both.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from celery import signals as celery_signals

from .. import signals
from ..model import FINISHED, ErrorInfo, Stats
from ..worker.durable import Durable

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, start_http_server
    from prometheus_client.core import GaugeMetricFamily, Metric
    from prometheus_client.multiprocess import MultiProcessCollector
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        'celery_durable.contrib.prometheus needs prometheus_client: pip install "celery-durable[prometheus]"'
    ) from error

if TYPE_CHECKING:
    from wsgiref.simple_server import WSGIServer

__all__ = ["DurableCollector", "count", "serve"]

logger = logging.getLogger("celery_durable")

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS_OF_STEPS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 3600)
_SECONDS_OF_RUNS = (0.1, 1, 10, 60, 300, 1800, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600, 30 * 24 * 3600)
_PATIENCE = 5.0
"""Seconds that a scrape waits for the database."""

_counted: weakref.WeakKeyDictionary[CollectorRegistry, _Counts] = weakref.WeakKeyDictionary()


def count(registry: CollectorRegistry = REGISTRY) -> None:
    """Count what this process's passes do, and those of the processes that it forks. Can be called twice."""
    if registry not in _counted:
        _counted[registry] = _Counts(registry)
        celery_signals.worker_ready.connect(_warn, weak=False, dispatch_uid="celery_durable.prometheus")


def _warn(sender: Any = None, **_: Any) -> None:
    pool = getattr(sender, "pool", None)
    if type(pool).__module__ == "celery.concurrency.prefork" and _DIRECTORY not in os.environ:
        logger.warning(
            "the children of this worker's pool count their runs and steps for themselves, and no scrape sees it: set "
            "%s, as docs/monitoring says",
            _DIRECTORY,
        )


class _Counts:
    """The metrics of one registry, and the receivers that move them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        of_run, of_step = ("task",), ("task", "kind", "function")

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"celery_durable_{name}", what, labels, registry=registry)

        self.started = counter("runs_started", "Runs whose body was executed for the first time.", *of_run)
        self.resumed = counter("runs_resumed", "Passes after the first one of a run.", *of_run)
        self.suspended = counter("runs_suspended", "Passes at whose end the run waits.", *of_run)
        self.paused = counter("runs_paused", "Runs that were paused because their code does not fit them.", *of_run)
        self.finished = counter("runs_finished", "Runs that have ended.", *of_run, "status")
        self.run_seconds = Histogram(
            "celery_durable_run_duration_seconds",
            "From a run's first pass to its end, waits included.",
            (*of_run, "status"),
            buckets=_SECONDS_OF_RUNS,
            registry=registry,
        )
        self.steps = counter("steps_finished", "Functions of steps whose outcome is final.", *of_step, "status")
        self.retries = counter("step_retries", "Attempts of steps that have failed and are made again.", *of_step)
        self.step_seconds = Histogram(
            "celery_durable_step_duration_seconds",
            "One attempt of a step, whether it failed or not.",
            of_step,
            buckets=_SECONDS_OF_STEPS,
            registry=registry,
        )
        for signal, receiver in (
            (signals.run_started, self._on_start),
            (signals.run_resumed, self._on_resume),
            (signals.run_suspended, self._on_suspend),
            (signals.run_paused, self._on_pause),
            (signals.run_finished, self._on_finish),
            (signals.step_retried, self._on_retry),
            (signals.step_finished, self._on_step),
        ):
            signal.connect(receiver, weak=False)

    def _on_start(self, sender: Any = None, **_: Any) -> None:
        self.started.labels(sender.name).inc()

    def _on_resume(self, sender: Any = None, **_: Any) -> None:
        self.resumed.labels(sender.name).inc()

    def _on_suspend(self, sender: Any = None, **_: Any) -> None:
        self.suspended.labels(sender.name).inc()

    def _on_pause(self, sender: Any = None, **_: Any) -> None:
        self.paused.labels(sender.name).inc()

    def _on_finish(self, sender: Any = None, status: str = "", seconds: float = 0.0, **_: Any) -> None:
        self.finished.labels(sender.name, status).inc()
        self.run_seconds.labels(sender.name, status).observe(seconds)

    # Not by step ids: a loop makes as many of them as it likes, and each would be a series of its own.

    def _on_retry(
        self, sender: Any = None, kind: str = "", function: str | None = None, seconds: float = 0.0, **_: Any
    ) -> None:
        self.retries.labels(sender.name, kind, function or "").inc()
        self.step_seconds.labels(sender.name, kind, function or "").observe(seconds)

    def _on_step(
        self,
        sender: Any = None,
        kind: str = "",
        function: str | None = None,
        status: str = "",
        seconds: float = 0.0,
        error: ErrorInfo | None = None,
        **_: Any,
    ) -> None:
        self.steps.labels(sender.name, kind, function or "", status).inc()
        self.step_seconds.labels(sender.name, kind, function or "").observe(seconds)


class DurableCollector(Collector):
    """How all runs are doing, as the durable database says at the time of the scrape.

    One process that has it is enough. While the database is away ``celery_durable_up`` is 0, and says no more.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self._asking = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        """What there will be. Without this, a registry would ask the database when the collector is registered."""
        return [*_gauges().values()]

    def collect(self) -> Iterator[Metric]:
        gauges = _gauges()
        stats = self._ask()
        gauges["up"].add_metric([], stats is not None)
        if stats is None:
            yield gauges["up"]
            return
        for task, statuses in sorted(stats.tasks.items()):
            for status in stats.statuses:  # those that no run has, too: an alert needs a series that is there
                gauges["runs"].add_metric([task, status], statuses.get(status, 0))
        gauges["runs_queued"].add_metric([], stats.queued)
        gauges["events_undispatched"].add_metric([], stats.undispatched_events)
        gauges["lag_seconds"].add_metric([], stats.lag)
        gauges["sweepers"].add_metric([], stats.sweeper is not None)
        yield from gauges.values()

    def _ask(self) -> Stats | None:
        """The figures, or ``None``. A database that does not answer at all must not hold up the scrape."""
        if not self._asking.acquire(blocking=False):
            return None  # the last question has no answer yet
        answers: queue.Queue[Stats | None] = queue.Queue()

        def ask() -> None:
            try:
                answers.put(Durable(self._app).stats())
            except Exception as error:
                logger.warning("the figures of the durable runs could not be read: %s", error)
                answers.put(None)
            finally:
                self._asking.release()

        threading.Thread(target=ask, name="celery-durable-stats", daemon=True).start()
        try:
            return answers.get(timeout=_PATIENCE)
        except queue.Empty:
            logger.warning("the figures of the durable runs were not there within %g s", _PATIENCE)
            return None


def _gauges() -> dict[str, GaugeMetricFamily]:
    finished = ", ".join(sorted(FINISHED))
    told = {
        "up": ("Whether the durable database could be read.", ()),
        "runs": (f"Runs by status; those that are {finished} until they are pruned.", ("task", "status")),
        "runs_queued": ("Runs that stand in line because of their task's concurrency.", ()),
        "events_undispatched": ("Events that have not woken and started yet what they are to.", ()),
        "lag_seconds": ("For how long the run is due that should have gone on first.", ()),
        "sweepers": ("Whether a worker sweeps; without one nothing wakes by time.", ()),
    }
    return {
        name: GaugeMetricFamily(f"celery_durable_{name}", what, labels=labels) for name, (what, labels) in told.items()
    }


def serve(app: Any, port: int, address: str = "0.0.0.0") -> tuple[WSGIServer, threading.Thread]:
    """Answer scrapes at this port, by a thread: with how all runs are doing, and with all metrics that are counted
    in this process, or in those that share ``PROMETHEUS_MULTIPROC_DIR`` with it."""
    registry = CollectorRegistry()
    registry.register(DurableCollector(app))
    if _DIRECTORY in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    else:
        registry.register(REGISTRY)
    return start_http_server(port, address, registry)
