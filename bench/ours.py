"""What the programs of other engines do for ``bench.peers``, done by us and by what we are measured against: the bare
driver, and Celery without us. By the same names, and with a real worker where one is needed.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from bench import latency, orders, replay, steps, suspends
from bench.asleep import lateness
from bench.events import Waiters, relayed
from bench.harness import one_pass
from bench.peer_talk import parsed
from bench.tasks import app, asleep, plain_time, time_of_body
from bench.workers import REDIS, count, settings_for, until, workers
from celery_durable import Durable
from celery_durable.store.store import Store

__all__ = ["Ours", "opened"]


class Ours:
    """Answers in this process what a peer's program answers by lines. Times are in seconds."""

    def __init__(self, store: Store, worker: subprocess.Popen[bytes], queue: str) -> None:
        self.store = store
        self.url = store.engine.url.render_as_string(hide_password=False)
        self.worker = worker
        self.queue = queue
        self.waiters = Waiters(store)

    def ask(self, line: str) -> list[float]:
        name, arguments = parsed(line)
        answer: list[float] = getattr(self, name)(*arguments)
        return answer

    def processes(self) -> list[psutil.Process]:
        main = psutil.Process(self.worker.pid)
        return [main, *main.children(recursive=True)]

    # ------------------------------------------------------------ one run, in this process

    def steps(self, number: int) -> list[float]:
        began = time.perf_counter()
        one_pass(self.store, lambda: replay.body(number))
        return [time.perf_counter() - began]

    def bare_steps(self, number: int) -> list[float]:
        assert number == steps.STEPS
        return [steps.bare(self.store) * number]

    def replay(self, records: int) -> list[float]:
        return [replay.ours(self.store, records)]

    def bare_replay(self, records: int) -> list[float]:
        return [replay.bare(self.store, records)]

    # -------------------------------------------------------------------- with the worker

    def orders(self, number: int) -> list[float]:
        return [orders.seconds(orders.ours, number) * number]

    def chains(self, number: int) -> list[float]:
        return [orders.seconds(orders.theirs, number) * number]

    def starts(self, number: int) -> list[float]:
        return [latency.latency(time_of_body) / 1000 for _ in range(number)]

    def plain_starts(self, number: int) -> list[float]:
        return [latency.latency(plain_time) / 1000 for _ in range(number)]

    def events(self, parked: int, emits: int, pause: float) -> list[float]:
        return [took / 1000 for took in self.waiters.latencies(parked, emits, pause)]

    def relayed(self, parked: int, emits: int, pause: float) -> list[float]:
        return [took / 1000 for took in relayed(emits, pause)]

    def suspends(self, length: int, every: int) -> list[float]:
        return [suspends.seconds(length, every)]

    def sleeps(self, number: int, seconds: float, pause: float) -> list[float]:
        done, runs = count(self.store, "completed"), []
        for _ in range(number):
            runs.append(asleep.delay(seconds).id)
            time.sleep(pause)
        until(lambda: count(self.store, "completed") == done + number)
        return [lateness(Durable(app), run, seconds) / 1000 for run in runs]

    def eta_sleeps(self, number: int, seconds: float, pause: float) -> list[float]:
        sent = []
        for _ in range(number):
            sent.append((time.time() + seconds, plain_time.apply_async(countdown=seconds)))
            time.sleep(pause)
        return [result.get(timeout=60) - due for due, result in sent]

    def parked(self, runs: int) -> list[float]:
        before, began = count(self.store, "suspended"), time.perf_counter()
        for _ in range(runs):
            asleep.delay(3600.0)
        until(lambda: count(self.store, "suspended") == before + runs, 120)
        return [time.perf_counter() - began]

    def eta_parked(self, tasks: int) -> list[float]:
        began = time.perf_counter()
        for _ in range(tasks):
            plain_time.apply_async(countdown=3600.0)
        with app.connection_for_read() as connection:
            client: Any = connection.default_channel.client
            until(lambda: client.llen(self.queue) == 0, 120)
        return [time.perf_counter() - began]


@contextmanager
def opened(url: str, processes: int = 1, module: str = "bench.tasks") -> Iterator[Ours]:
    """On a new database, with a worker of so many processes. A ``module`` without durable tasks is for comparison."""
    store = Store(url)
    store.migrate()
    config = settings_for(store, REDIS, result_backend=REDIS)
    try:
        with workers(app, module, config, processes) as worker:
            if module == "bench.tasks":
                plain_time.delay().get(timeout=60)  # it is there
            else:
                time.sleep(5)
            yield Ours(store, worker, config["task_default_queue"])
    finally:
        store.engine.dispose()
