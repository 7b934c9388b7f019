"""Many runs parked, and all of them woken within a minute: by sleeps that end, by one event, by an event for each.

How many is said by ``BENCH_RUNS``, on which databases by ``BENCH_DATABASES``, how by ``BENCH_WAYS``, and for how many
seconds at most by ``BENCH_SECONDS``: what has not ended by then is said.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from bench.fleet import Fleet, fleet
from bench.load_app import app
from bench.parking import bring_forward, park_asleep, park_waiting
from bench.private import DATABASES, LOGGED
from bench.watching import Series, memory_of, processor_use
from bench.workers import percentile
from celery_durable import Durable
from celery_durable.core.duration import SECOND

RUNS = int(os.environ.get("BENCH_RUNS", "100000"))
WORKERS, PROCESSES = 4, 2
MINUTE = 60.0
LIMIT = float(os.environ.get("BENCH_SECONDS", "3600"))


def main() -> None:
    print(
        f"\nload: {RUNS:,} runs parked (copies of one that a worker has parked) and woken within a minute; "
        f"{WORKERS} workers of {PROCESSES} processes; a private database server and Redis"
    )
    chosen = os.environ.get("BENCH_WAYS", " ".join(WAYS)).split()
    for name in os.environ.get("BENCH_DATABASES", " ".join(DATABASES)).split():
        with fleet(name) as made:
            for way in chosen:
                made.empty()
                Drain(made, way).go()


def asleep(fleet: Fleet) -> Callable[[], dict[str, int]]:
    due = park_asleep(fleet, RUNS, apart=MINUTE)
    return lambda: bring_forward(fleet, due, first_after=20.0)


def broadcast(fleet: Fleet) -> Callable[[], dict[str, int]]:
    park_waiting(fleet, RUNS, keys=False)

    def wake() -> dict[str, int]:
        with fleet.store.link() as link:
            now = fleet.store.now(link)
        Durable(app).emit("bench.load", None)
        return {f"run-{number:07}": now for number in range(RUNS)}

    return wake


def events(fleet: Fleet) -> Callable[[], dict[str, int]]:
    keys = park_waiting(fleet, RUNS, keys=True)
    due: dict[str, int] = {}

    def emit() -> None:
        durable, began = Durable(app), time.monotonic()
        with fleet.store.link() as link:
            first = fleet.store.now(link)
        for number, key in enumerate(keys):
            durable.emit("bench.load", None, key=key)
            due[f"run-{number:07}"] = first + int((time.monotonic() - began) * SECOND)

    def wake() -> dict[str, int]:
        threading.Thread(target=emit, daemon=True).start()
        return due

    return wake


WAYS: dict[str, Callable[[Fleet], Callable[[], dict[str, int]]]] = {
    "asleep": asleep,
    "broadcast": broadcast,
    "events": events,
}
"""Each parks the runs, and gives back what wakes them and tells when each is due."""


@dataclass
class Drain:
    """One measurement: from the moment that the first is due until the last has ended."""

    fleet: Fleet
    way: str
    memory: list[dict[int, float]] = field(default_factory=list)

    def go(self) -> None:
        wake = WAYS[self.way](self.fleet)
        queue, done = Series(self.fleet.queued), Series(lambda: self.fleet.count("completed"))
        with self.fleet.workers(WORKERS, PROCESSES):
            due = wake()
            began, seen, dropped = time.monotonic(), self.fleet.watch.mark(), self.fleet.dropped()
            while done.look() < RUNS and time.monotonic() - began < LIMIT:
                queue.look()
                self.memory.append(memory_of(self.fleet.processes()))
                time.sleep(1)
            title = f"\n  {self.way}, {self.fleet.database} ({processor_use()})"
            strain = self.fleet.watch.strain(seen)
        print(title)
        self.tell_time(due)
        say("queue", f"at most {max(queue.values):,.0f} messages; every tenth look: {every_tenth(queue)}")
        say("duplicates", f"{self.fleet.dropped() - dropped:,} messages came to a worker and had nothing to do")
        self.tell_memory()
        say("transactions", f"the longest {strain.longest_transaction * 1000:,.0f} ms, of {strain.looks} looks")
        say("lock waits", f"at {strain.looks_with_waits} looks, the longest {strain.longest_wait * 1000:,.0f} ms")
        if self.fleet.database == "postgresql":
            longest = max(strain.logged_waits, default=0)
            say("", f"logged, those over {LOGGED} ms: {len(strain.logged_waits)}, the longest {longest:,.0f} ms")
        say("deadlocks", strain.deadlocks)
        calls = strain.calls / strain.seconds
        say("database", f"{calls:,.0f} {CALLS[self.fleet.database]}/s, {strain.calls / RUNS:.1f} a run")
        errors = [line for line in self.fleet.logs().splitlines() if "ERROR" in line or "WARNING" in line]
        say("logged", f"{len(errors)} warnings and errors {errors[:2] if errors else ''}")

    def tell_time(self, due: dict[str, int]) -> None:
        ended = self.ended()
        first, last = min(due.values()), max(ended.values())
        span = (last - first) / SECOND
        say("drained", f"{len(ended):,} in {span:,.1f} s after the first was due: {len(ended) / span:,.0f} runs/s")
        late = [(ended[run] - due[run]) / SECOND for run in ended]
        say("late", "seconds: " + ", ".join(f"p{part} {percentile(late, part / 100):,.1f}" for part in (1, 50, 99)))
        # In a queue that is served in the order of its due times the n-th due ends as the n-th.
        in_turn = list(zip(sorted(due, key=lambda run: (due[run], run)), sorted(ended.values()), strict=False))
        unfair = [abs(ended.get(run, last) - turn) / SECOND for run, turn in in_turn]
        least = max(turn - due[run] for run, turn in in_turn) / SECOND
        say("", f"the most late {max(late):,.1f} s; served strictly in turn it would be {least:,.1f} s")
        half, most = percentile(unfair, 0.5), percentile(unfair, 0.99)
        say("out of turn", f"p50 {half:,.1f} s, p99 {most:,.1f} s, at most {max(unfair):,.1f} s")

    def ended(self) -> dict[str, int]:
        """When each run has ended that has."""
        run = self.fleet.store.tables.run
        with self.fleet.store.engine.connect() as connection:
            rows = connection.execute(select(run.c.id, run.c.finished_at).where(run.c.finished_at.is_not(None)))
            return {row.id: row.finished_at for row in rows}

    def tell_memory(self) -> None:
        """How much each process has grown from when it had done a tenth of its time to the end."""
        early, late = self.memory[len(self.memory) // 10], self.memory[-1]
        grown = [late[process] - early[process] for process in late if process in early]
        most = max(max(look.values()) for look in self.memory)
        say("memory", f"processes grew by {min(grown):+.1f} to {max(grown):+.1f} MB; the largest had {most:,.0f} MB")


CALLS = {"postgresql": "transactions", "mysql": "statements"}


def say(what: str, figures: Any) -> None:
    print(f"    {what:<13}{figures}", flush=True)


def every_tenth(series: Series) -> str:
    values = series.values
    return " ".join(f"{value:,.0f}" for value in values[:: max(1, len(values) // 10)])
