"""From ``delay`` to the first line of the body: a durable task, against a plain one, at low load."""

from __future__ import annotations

import statistics
import time
from typing import Any

from bench.harness import stores
from bench.tasks import app, plain_time, time_of_body
from bench.workers import REDIS, answers, settings_for, spread, workers

STARTS = 200
PAUSE = 0.01


def latency(task: Any) -> float:
    """Milliseconds of one start. The next one comes when this one has ended."""
    began = time.time()
    result = task.delay()
    first_line = result.get(timeout=60)
    time.sleep(PAUSE)
    return float(first_line - began) * 1000


def main() -> None:
    print(
        f"\nlatency: from delay() to the first line of the body, {STARTS} starts of each in turn, one worker process, "
        "by Redis; milliseconds"
    )
    if not answers(REDIS):
        print("  redis: does not answer, left out (set DURABLE_TEST_REDIS)")
        return
    with stores() as made:
        for name, store in made.items():
            with workers(app, "bench.tasks", settings_for(store, REDIS, result_backend=REDIS)):
                for _ in range(10):
                    latency(time_of_body), latency(plain_time)  # warm
                pairs = [(latency(time_of_body), latency(plain_time)) for _ in range(STARTS)]
            own, other = ([pair[place] for pair in pairs] for place in (0, 1))
            more = statistics.median(own) - statistics.median(other)
            print(f"  {name:<11} durable   {spread(own)}\n{'':13} plain     {spread(other)}   (p50: {more:+.1f})")
