"""From ``emit`` to the first line of the next step, with a real worker and runs that wait."""

from __future__ import annotations

import os
import time

from bench.harness import stores
from bench.tasks import app, waits
from bench.workers import BROKERS, answers, count, settings_for, spread, until, workers
from celery_durable import Durable
from celery_durable.store.store import Store

WAITING = 300
EMITS = 200
PAUSE = 0.03
"""Seconds between two emits: low load."""


def latencies(store: Store) -> list[float]:
    """Milliseconds from before each emit to the first line of the step after the wait."""
    runs = [waits.delay(f"k{number}").id for number in range(WAITING)]
    until(lambda: count(store, "suspended") == WAITING)
    durable = Durable(app)
    durable.emit("bench.event", None, key="nobody")  # connects, and is not measured
    time.sleep(0.5)
    emitted = {}
    for number in range(EMITS):
        emitted[number] = time.time()
        durable.emit("bench.event", {"number": number}, key=f"k{number}")
        time.sleep(PAUSE)
    until(lambda: count(store, "completed") == EMITS)
    return [(durable.get(runs[number]).result - emitted[number]) * 1000 for number in range(EMITS)]


def main() -> None:
    print(
        f"\nevents: from emit to the next step's first line, {WAITING} runs waiting, {EMITS} emits "
        f"{PAUSE * 1000:.0f} ms apart, one worker of 2 processes; milliseconds"
    )
    for broker, (variable, default) in BROKERS.items():
        url = os.environ.get(variable, default)
        if not answers(url):
            print(f"  {broker}: does not answer, left out (set {variable})")
            continue
        with stores() as made:
            for name, store in made.items():
                _measure(f"{name}, {broker}", url, store)


def _measure(title: str, broker: str, store: Store) -> None:
    with workers(app, "bench.tasks", settings_for(store, broker), 2):
        found = latencies(store)
    print(f"  {title:<22} {spread(found)}")
