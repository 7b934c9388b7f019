"""One storm: load, a monkey, calm, and the audit."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from celery import Celery
from sqlalchemy import text

from tests.chaos.audit import Audit, Violation, unfinished
from tests.chaos.monkey import Monkey
from tests.chaos.report import told
from tests.chaos.shapes import LIMIT
from tests.chaos.stage import Stage, wait

__all__ = ["Storm", "weather"]

MARKS = {
    "workers found dead": "died; it ",
    "messages with nothing to do": "this message has nothing to do",
    "results delivered later": "has finished before; its result is delivered now",
    "writes refused": "lost its lease",
}
"""What workers say, and what the figures call it."""
DRAIN = 600.0
"""Seconds that everything has to end when the monkey has stopped."""


@dataclass
class Storm:
    """What came of one."""

    broker: str
    database: str
    seed: int
    seconds: float
    figures: dict[str, Any] = field(default_factory=dict)
    deeds: list[tuple[float, str]] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    report: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.broker} + {self.database}"


class Watch:
    """Looks now and then at how many runs with a limit are executed."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._stop = threading.Event()
        self.most, self.looks = 0, 0

    @contextmanager
    def on(self) -> Iterator[None]:
        thread = threading.Thread(target=self._look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _look(self) -> None:
        statement = text("SELECT count(*) FROM durable_run WHERE status = 'running' AND resource IS NOT NULL")
        while not self._stop.wait(0.25):
            try:
                with self._stage.engine.connect() as connection:
                    self.most = max(self.most, connection.execute(statement).scalar_one())
                    self.looks += 1
            except Exception:
                self._stage.engine.dispose()  # the database is away


def weather(
    broker: str,
    database: str,
    *,
    seconds: float,
    seed: int,
    rate: float,
    keep: Path | None = None,
    drain: float = DRAIN,
    then: Callable[[Stage, Audit], None] | None = None,
) -> Storm:
    """Have a storm. ``then`` is called with what is left of it, if all is well."""
    storm = Storm(broker, database, seed, seconds)
    with Stage(broker, database, keep) as stage:
        stage.wait_for_workers()
        monkey, watch = Monkey(stage, seed), Watch(stage)
        loads = [os.getloadavg()[0]]
        with watch.on():
            stage.start_producer(seed, rate)
            time.sleep(min(3.0, seconds / 10))
            monkey.work(seconds)
            loads.append(os.getloadavg()[0])
            calm = time.monotonic()
            stage.stop_producer()
            storm.deeds = monkey.deeds
            ended = wait(lambda: not unfinished(stage.engine), drain)
            drained = time.monotonic() - calm
        if not ended:
            storm.report.append(f"after {drain:g} s there is still to do: {unfinished(stage.engine)}")
            storm.violations.append(Violation("ended", None, storm.report[-1]))
        for worker in stage.workers:
            worker.stop()
        audit = Audit(stage.journal, stage.effects, results_of(stage), forgotten(monkey.deeds))
        with stage.engine.connect() as connection:
            storm.violations += audit.run(connection)
        if watch.most > LIMIT:
            storm.violations.append(Violation("shared", None, f"{watch.most} runs at once, where {LIMIT} may be"))
        storm.report += told(storm.violations, audit, storm.deeds)
        if then is not None and not storm.violations:
            then(stage, audit)
        storm.figures = (
            audit.figures()
            | {"deeds": sum(count for kind, count in monkey.counts.items() if kind != "copies")}
            | dict(monkey.counts)
            | said(stage)
            | {
                "ordinary callbacks in an emptied broker": audit.at_risk,
                "workers that ended by themselves": sum(worker.ended_by_itself for worker in stage.workers),
                "most runs of a limit of 2 at once": f"{watch.most}, in {watch.looks} looks",
                "drained in s": round(drained, 1),
                "load average": [round(load, 1) for load in loads],
            }
        )
    return storm


def results_of(stage: Stage, number: int = 0) -> Any:
    """Celery's results, in one of Redis' databases, asked for without a proxy."""
    url = stage.backend.url(stage.backend.port, number)
    return Celery("audit", set_as_current=False, broker="memory://", backend=url).backend


def forgotten(deeds: Iterable[tuple[float, str]]) -> list[tuple[float, float]]:
    """From when to when the broker may have lost messages."""
    found, since = [], None
    for at, what in deeds:
        if what.startswith("broker"):
            since = at
        elif since is not None and what.endswith(("is back", "is empty")):
            found.append((since, at))
            since = None
    return found


def said(stage: Stage) -> dict[str, int]:
    """How often workers said what."""
    found: Counter[str] = Counter()
    for worker in stage.workers:
        with worker.log.open(errors="replace") as log:
            for line in log:
                for what, mark in MARKS.items():
                    found[what] += mark in line
    return dict(found)
