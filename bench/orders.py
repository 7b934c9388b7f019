"""Orders of four steps: a durable run of each, against a plain Celery chain of four tasks; with real workers.

On PostgreSQL also a task that does the same by the bare driver: how much quicker we could be.
"""

from __future__ import annotations

import time
from typing import Any

from celery import chain

from bench.bare_order import start_bare, tables
from bench.harness import alternate, stores
from bench.tasks import app, bare_order, charge, mail, order, reserve, ship
from bench.workers import REDIS, answers, settings_for, until, workers

ORDERS = 200
TURNS = 5


def ours(number: int) -> Any:
    return order.delay(number)


def theirs(number: int) -> Any:
    return chain(reserve.s({"order": number}), charge.s(), ship.s(), mail.s()).delay()


def seconds(start: Any, orders: int = ORDERS) -> float:
    """From the first start until all results are there, for each order."""
    began = time.perf_counter()
    results = [start(number) for number in range(orders)]
    # Asked for, and not waited for: now and then Celery's client misses that a chain has a result.
    for result in results:
        until(result.ready, 120)
    return (time.perf_counter() - began) / orders


def by_the_driver(number: int) -> Any:
    return start_bare(bare_order, number)


def main() -> None:
    print(
        f"\norders: {ORDERS} orders of 4 steps, results by Redis; orders a second, starting them included, medians of "
        f"{TURNS} alternating turns"
    )
    if not answers(REDIS):
        print("  redis: does not answer, left out (set DURABLE_TEST_REDIS)")
        return
    with stores() as made:
        for name, store in made.items():
            for processes in (1, 2):
                config = settings_for(store, REDIS, result_backend=REDIS)
                with workers(app, "bench.tasks", config, processes):
                    _measure(f"{name:<11} {processes} process{'es' if processes > 1 else '  '}", name)


def _measure(title: str, database: str) -> None:
    seconds(ours), seconds(theirs)  # warm
    own, other, ratio = alternate(TURNS, lambda: seconds(ours), lambda: seconds(theirs))
    print(f"  {title}   ours {1 / own:6.0f}   a chain {1 / other:6.0f}   {1 / ratio:.2f} times as many")
    if database == "postgresql":
        with tables(app):
            seconds(by_the_driver)
            own, other, ratio = alternate(TURNS, lambda: seconds(by_the_driver), lambda: seconds(theirs))
        print(f"  {title}   bare {1 / own:6.0f}   a chain {1 / other:6.0f}   {1 / ratio:.2f} times as many")
