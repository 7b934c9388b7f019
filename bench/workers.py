"""Worker processes of a benchmark, and the app by which this process talks to them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery
from kombu import Connection

from celery_durable.store.store import Store
from celery_durable.worker.runtime import _runtimes

VARIABLE = "BENCH_APP"
"""The environment variable by which a worker process gets its settings."""

BROKERS = {
    "redis": ("DURABLE_TEST_REDIS", "redis://127.0.0.1:6379/0"),
    "rabbitmq": ("DURABLE_TEST_RABBITMQ", "amqp://guest:guest@127.0.0.1:5672//"),
}
REDIS = os.environ.get(*BROKERS["redis"])


def bench_app(**settings: Any) -> Celery:
    """An app of this process, configured by the environment."""
    app = Celery("bench", set_as_current=False)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        worker_enable_remote_control=False,
        durable_auto_migrate=True,
        **settings,
        **json.loads(os.environ.get(VARIABLE, "{}")),
    )
    return app


def settings_for(store: Store, broker: str, **more: Any) -> dict[str, Any]:
    """The settings of an app with this store and broker, and a queue of its own."""
    return {
        "broker_url": broker,
        "durable_database_url": store.engine.url.render_as_string(hide_password=False),
        "durable_table_prefix": store.prefix,
        "task_default_queue": f"bench-{uuid.uuid4().hex[:8]}",
        **more,
    }


def configure(app: Celery, config: dict[str, Any]) -> None:
    """Give the app of this process other settings, and have it forget what it has made by those before."""
    app.conf.update(config)
    _runtimes.clear()
    app._backend_cache, app._local = None, threading.local()


@contextmanager
def workers(
    app: Celery, module: str, config: dict[str, Any], concurrency: int = 1
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of so many processes, and in this one the app by which runs are started and events emitted."""
    configure(app, config)
    command = [sys.executable, "-m", "celery", "-A", module, "worker", "-l", "WARNING", "-c", str(concurrency)]
    command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    environment = os.environ | {VARIABLE: json.dumps(config)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)
        with app.connection_for_write() as connection:
            connection.default_channel.queue_delete(config["task_default_queue"])
        app._after_fork()  # drops the connections to this broker


def answers(url: str) -> bool:
    """Whether there is a broker."""
    try:
        with Connection(url, connect_timeout=2) as connection:
            connection.ensure_connection(max_retries=1)
    except Exception:
        return False
    return True


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    """Wait for the workers."""
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


def percentile(values: list[float], part: float) -> float:
    """The value that this part of the sorted values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def spread(values: list[float]) -> str:
    """The middle and the tail of some times, as they are printed."""
    parts = (f"p{part * 100:.0f} {percentile(values, part):6.1f}" for part in (0.5, 0.9, 0.99))
    return "   ".join(parts)
