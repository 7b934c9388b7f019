"""A fleet that has nothing to do: what it asks of the database, and what it uses of the processor beside workers of
plain Celery."""

from __future__ import annotations

import os
import time

from bench.fleet import Fleet, fleet
from bench.load import CALLS
from bench.parking import HOUR, park_asleep
from bench.private import DATABASES
from bench.watching import memory_of, processor_seconds, processor_use

SECONDS = float(os.environ.get("BENCH_SECONDS", "60"))
WORKERS, PROCESSES = 4, 2
ASLEEP = int(os.environ.get("BENCH_RUNS", "100000"))


def main() -> None:
    print(f"\nidle: {WORKERS} workers of {PROCESSES} processes for {SECONDS:.0f} s")
    for name in os.environ.get("BENCH_DATABASES", " ".join(DATABASES)).split():
        with fleet(name) as made:
            watched(made, "plain Celery", WITHOUT)
            watched(made, "no runs", WITH)
            park_asleep(made, ASLEEP, apart=HOUR)
            watched(made, f"{ASLEEP:,} runs asleep", WITH)


WITH, WITHOUT = "bench.load_app", "bench.plain_app"


def watched(fleet: Fleet, what: str, app: str) -> None:
    """Start the workers, let them settle, and watch them."""
    with fleet.workers(WORKERS, PROCESSES, app):
        time.sleep(20)  # each has found out by then who leads
        before, used, memory = fleet.watch.mark(), processor_seconds(fleet.processes()), memory_of(fleet.processes())
        time.sleep(SECONDS)
        strain, used = fleet.watch.strain(before), processor_seconds(fleet.processes()) - used
        grown = max(now - memory[process] for process, now in memory_of(fleet.processes()).items())
    print(
        f"  {fleet.database:<11} {what:<22} {strain.calls / strain.seconds:5.2f} {CALLS[fleet.database]}/s   "
        f"processor {used / strain.seconds * 100:5.2f} % of a core   memory +{grown:.1f} MB at most   "
        f"({processor_use()})",
        flush=True,
    )
