"""An app with one ordinary task, and a durable one beside it where the environment says so."""

from __future__ import annotations

import os

from bench.workers import bench_app

__all__ = ["BESIDE", "app", "nothing"]

BESIDE = "BENCH_BESIDE"

app = bench_app()


@app.task(name="bench.nothing", ignore_result=True)
def nothing() -> None: ...


if os.environ.get(BESIDE):
    from celery_durable import DurableTask

    @app.task(base=DurableTask, name="bench.durable")
    def durable() -> None: ...
