"""From ``emit`` to the first line of the next step, with a real worker and runs that wait."""

from __future__ import annotations

import os
import time
import uuid

from celery.result import AsyncResult

from bench.harness import stores
from bench.tasks import app, relay, waits
from bench.workers import BROKERS, REDIS, answers, count, settings_for, spread, until, workers
from celery_durable import Durable
from celery_durable.store.store import Store

WAITING = 300
EMITS = 200
PAUSE = 0.03
"""Seconds between two emits: low load."""


class Waiters:
    """Runs that wait for an event, each with a key of its own."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.waiting: list[tuple[str, str]] = []
        """Keys and runs, the longest waiting first."""
        self._made = 0

    def latencies(self, parked: int, emits: int, pause: float) -> list[float]:
        """Milliseconds from before each emit to the first line of the step after the wait, with so many runs parked
        before the first of the emits."""
        while len(self.waiting) < parked:
            key = f"k{self._made}"
            self.waiting.append((key, waits.delay(key).id))
            self._made += 1
        until(lambda: count(self.store, "suspended") == parked)
        durable = Durable(app)
        durable.emit("bench.event", None, key="nobody")  # connects, and is not measured
        time.sleep(0.5)
        woken, emitted = self.waiting[:emits], []
        for key, _ in woken:
            emitted.append(time.time())
            durable.emit("bench.event", {"number": len(emitted)}, key=key)
            time.sleep(pause)
        del self.waiting[:emits]
        until(lambda: count(self.store, "completed") == self._made - len(self.waiting))
        return [(durable.get(run).result - at) * 1000 for (_, run), at in zip(woken, emitted, strict=True)]


def relayed(messages: int, pause: float) -> list[float]:
    """The same of an ordinary task that sends another one: the two messages that an event takes, and nothing else."""
    _relay(20, pause)  # each process connects, and is not measured
    return _relay(messages, pause)


def _relay(messages: int, pause: float) -> list[float]:
    sent = {}
    for _ in range(messages):
        task_id = uuid.uuid4().hex
        sent[task_id] = time.time()
        relay.delay(task_id)
        time.sleep(pause)
    results = {task_id: AsyncResult(task_id, app=app) for task_id in sent}
    return [(results[task_id].get(timeout=60) - at) * 1000 for task_id, at in sent.items()]


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
            if answers(REDIS):
                config = settings_for(made["sqlite"], url, result_backend=REDIS)
                with workers(app, "bench.tasks", config, 2):
                    print(f"  {f'two messages, {broker}':<22} {spread(relayed(EMITS, PAUSE))}")


def _measure(title: str, broker: str, store: Store) -> None:
    with workers(app, "bench.tasks", settings_for(store, broker), 2):
        found = Waiters(store).latencies(WAITING, EMITS, PAUSE)
    print(f"  {title:<22} {spread(found)}")
