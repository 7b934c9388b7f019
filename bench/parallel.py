"""Branches of one block that wait for something: 200 of 50 ms each, by the limit, on threads and with asyncio."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

from bench.harness import one_pass, stores
from celery_durable import step
from celery_durable.aio import step as aio_step
from celery_durable.store.store import Store

BRANCHES = 200
SECONDS = 0.05
LIMITS = (10, 50, 200)
TURNS = 3


def on_threads(limit: int) -> Callable[[], Any]:
    def body() -> None:
        step.map("wait", time.sleep, [SECONDS] * BRANCHES, limit=limit)

    return body


def with_asyncio(limit: int) -> Callable[[], Any]:
    async def body() -> None:
        await aio_step.map("wait", asyncio.sleep, [SECONDS] * BRANCHES, limit=limit)

    return body


def seconds(store: Store, body: Callable[[], Any]) -> float:
    def once() -> float:
        began = time.perf_counter()
        one_pass(store, body)
        return time.perf_counter() - began

    return statistics.median(once() for _ in range(TURNS))


def main() -> None:
    print(
        f"\nparallel: {BRANCHES} branches of {SECONDS * 1000:.0f} ms; milliseconds for all, median of {TURNS} turns, "
        "and what it would be if nothing else took time"
    )
    with stores() as made:
        for name, store in made.items():
            for limit in LIMITS:
                least = SECONDS * 1000 * BRANCHES / min(limit, BRANCHES)
                threads = seconds(store, on_threads(limit)) * 1000
                loop = seconds(store, with_asyncio(limit)) * 1000
                print(
                    f"  {name:<11} limit {limit:>3}   threads {threads:7.0f}   asyncio {loop:7.0f}   least {least:7.0f}"
                )
