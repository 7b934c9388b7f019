"""A run that parks again and again, with a real worker: what its length costs."""

from __future__ import annotations

import statistics
import time

from bench.harness import stores
from bench.tasks import app, naps
from bench.workers import REDIS, answers, settings_for, workers

LENGTHS = (100, 200, 400, 800)
EVERY = 10
TURNS = 5


def seconds(length: int, every: int = EVERY) -> float:
    began = time.perf_counter()
    naps.delay(length, every).get(timeout=120)
    return time.perf_counter() - began


def main() -> None:
    print(
        f"\nsuspends: one run of some steps, every {EVERY}th of which parks it for a millisecond, by Redis, one worker "
        f"process; milliseconds, medians of {TURNS} turns"
    )
    if not answers(REDIS):
        print("  redis: does not answer, left out (set DURABLE_TEST_REDIS)")
        return
    with stores() as made:
        for name, store in made.items():
            with workers(app, "bench.tasks", settings_for(store, REDIS, result_backend=REDIS)):
                seconds(LENGTHS[0])  # warm
                turns = [[seconds(length) for length in LENGTHS] for _ in range(TURNS)]
            medians = [statistics.median(times) for times in zip(*turns, strict=True)]
            shown = "   ".join(
                f"{length} {middle * 1000:5.0f}" for length, middle in zip(LENGTHS, medians, strict=True)
            )
            grows = medians[-1] / medians[0]
            print(f"  {name:<11} {shown}   {LENGTHS[-1] // LENGTHS[0]} times the steps take {grows:.1f} times as long")
