"""How late a run wakes from a short sleep, where nothing else is to do, and while many others sleep for long."""

from __future__ import annotations

import os
import time
import uuid
from typing import Any

from bench.fleet import Fleet, fleet
from bench.load_app import app, asleep
from bench.parking import HOUR, park_asleep
from bench.private import DATABASES
from bench.watching import processor_use
from bench.workers import BROKERS, answers, percentile, until
from celery_durable import Durable

SLEEPS = int(os.environ.get("BENCH_RUNS", "200"))
OTHERS = int(os.environ.get("BENCH_ASLEEP", "100000"))
SECONDS = 2.0
PAUSE = 0.1
"""Seconds between two starts: low load."""


def main() -> None:
    print(f"\nasleep: {SLEEPS} sleeps of {SECONDS:.0f} s, one started each {PAUSE * 1000:.0f} ms; late by milliseconds")
    for database in os.environ.get("BENCH_DATABASES", " ".join(DATABASES)).split():
        measure(database, "redis, private", {})
        url = os.environ.get(*BROKERS["rabbitmq"])
        if answers(url):
            measure(database, "rabbitmq", {"broker_url": url, "task_default_queue": f"bench-{uuid.uuid4().hex[:8]}"})


def measure(database: str, broker: str, settings: dict[str, Any]) -> None:
    for others in (0, OTHERS):
        with fleet(database, **settings) as made:
            if others:
                park_asleep(made, others, apart=HOUR)
            late = all_late(made)
            if settings:
                with app.connection_for_write() as connection:
                    connection.default_channel.queue_delete(settings["task_default_queue"])
        print(
            f"  {database:<11} {broker:<15} {f'beside {others:,}':<14} p50 {percentile(late, 0.5):6.1f}   "
            f"p90 {percentile(late, 0.9):6.1f}   p99 {percentile(late, 0.99):6.1f}   ({processor_use()})",
            flush=True,
        )


def all_late(fleet: Fleet) -> list[float]:
    """How late each of the sleeps ended."""
    with fleet.workers(1, 2):
        asleep.delay(0.1)  # connects, and is not measured
        until(lambda: fleet.count("completed") == 1)
        runs = []
        for _ in range(SLEEPS):
            runs.append(asleep.delay(SECONDS).id)
            time.sleep(PAUSE)
        until(lambda: fleet.count("completed") == SLEEPS + 1)
        return [lateness(Durable(app), run) for run in runs]


def lateness(durable: Durable, run_id: str, seconds: float = SECONDS) -> float:
    """Milliseconds from the moment that the sleep was to end until the next step's first line."""
    run = durable.get(run_id)
    (sleep,) = [step for step in run.steps if step.kind == "sleep"]
    assert sleep.started_at is not None
    return float(run.result - sleep.started_at.timestamp() - seconds) * 1000
