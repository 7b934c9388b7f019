"""A worker process of whichever package is found first, on the broker and the database that it is given."""

from __future__ import annotations

import sys

from celery.signals import worker_ready

import celery_durable

from .work import make_app


def main() -> None:
    broker, backend, database, name, queue = sys.argv[1:]
    app = make_app(
        database,
        broker_url=broker,
        result_backend=backend,
        task_default_queue=queue,
        broker_connection_retry_on_startup=True,
        durable_sweep_interval="0.2s",
        worker_enable_remote_control=False,
    )

    @worker_ready.connect(weak=False)
    def tell(**_: object) -> None:
        sys.stdout.write(f"ready: {celery_durable.__file__}\n")
        sys.stdout.flush()

    app.Worker(pool="solo", hostname=f"{name}@upgrades", loglevel="INFO").start()


main()
