"""A thousand tasks and what waits for all of them: ``step.call`` in a block, against a Celery chord."""

from __future__ import annotations

import time
from typing import Any

from celery import chord

from bench.harness import alternate, stores
from bench.tasks import app, fan_out, gather, plain
from bench.workers import REDIS, answers, settings_for, workers

WIDTH = 1_000
TURNS = 5


def ours() -> Any:
    return fan_out.delay(WIDTH)


def theirs() -> Any:
    return chord([plain.s(number) for number in range(WIDTH)])(gather.s())


def seconds(start: Any) -> float:
    began = time.perf_counter()
    assert start().get(timeout=300) == WIDTH * (WIDTH - 1) // 2
    return time.perf_counter() - began


def main() -> None:
    print(
        f"\nfanout: {WIDTH} tasks called by one run and joined, by Redis, one worker of 2 processes; seconds, medians "
        f"of {TURNS} alternating turns"
    )
    if not answers(REDIS):
        print("  redis: does not answer, left out (set DURABLE_TEST_REDIS)")
        return
    with stores() as made:
        for name, store in made.items():
            with workers(app, "bench.tasks", settings_for(store, REDIS, result_backend=REDIS), 2):
                seconds(ours), seconds(theirs)  # warm
                own, other, ratio = alternate(TURNS, lambda: seconds(ours), lambda: seconds(theirs))
            print(f"  {name:<11} ours {own:5.2f}   a chord {other:5.2f}   ratio {ratio:.2f}")
