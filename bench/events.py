"""From ``emit`` to the first line of the next step, with a real worker and runs that wait."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kombu import Connection

from bench.events_app import VARIABLE, app, waits
from bench.harness import stores
from celery_durable import Durable
from celery_durable.store.store import Store
from celery_durable.worker.runtime import _runtimes

BROKERS = {
    "redis": ("DURABLE_TEST_REDIS", "redis://127.0.0.1:6379/0"),
    "rabbitmq": ("DURABLE_TEST_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672//"),
}
WAITING = 300
EMITS = 200
PAUSE = 0.03
"""Seconds between two emits: low load."""


def percentile(values: list[float], part: float) -> float:
    """The value that this part of the sorted values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


@contextmanager
def worker(config: dict[str, Any], concurrency: int) -> Iterator[None]:
    """A worker process, and in this one the app by which runs are started and events emitted."""
    app.conf.update(config)
    _runtimes.clear()  # this process has had other settings
    command = [sys.executable, "-m", "celery", "-A", "bench.events_app", "worker", "-l", "WARNING"]
    command += ["-c", str(concurrency), "--without-gossip", "--without-mingle"]
    environment = os.environ | {VARIABLE: json.dumps(config)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)
        with app.connection_for_write() as connection:
            connection.default_channel.queue_delete(config["task_default_queue"])
        app._after_fork()  # drops the connections to this broker


def until(condition: Any, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise TimeoutError("the worker did not do it in time")
        time.sleep(0.02)


def count(store: Store, status: str) -> int:
    """How many runs have this status."""
    run = store.tables.run
    with store.link() as link:
        query = run.select().with_only_columns(run.c.id).where(run.c.status == status)
        return len(link.run(lambda connection: connection.execute(query).all()))


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


def answers(url: str) -> bool:
    try:
        with Connection(url, connect_timeout=2) as connection:
            connection.ensure_connection(max_retries=1)
    except Exception:
        return False
    return True


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
    config = {
        "broker_url": broker,
        "durable_database_url": store.engine.url.render_as_string(hide_password=False),
        "durable_table_prefix": store.prefix,
        "task_default_queue": f"bench-{uuid.uuid4().hex[:8]}",
    }
    with worker(config, 2):
        found = latencies(store)
    print(
        f"  {title:<22} p50 {percentile(found, 0.5):6.1f}   p90 {percentile(found, 0.9):6.1f}   "
        f"p99 {percentile(found, 0.99):6.1f}"
    )
