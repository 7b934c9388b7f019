"""What a database server, a broker and worker processes show from outside while they work."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

__all__ = ["DatabaseWatch", "Series", "Strain", "memory_of", "processor_seconds", "processor_use"]

_LOOK_EVERY = 0.1


@dataclass
class Strain:
    """What a server has borne since a moment. PostgreSQL counts transactions, and a statement by itself is one; MariaDB
    counts statements."""

    calls: int
    deadlocks: int
    seconds: float
    logged_waits: list[float]
    """Milliseconds of each wait for a lock that PostgreSQL found worth a line in its log."""
    longest_transaction: float = 0.0
    longest_wait: float = 0.0
    looks: int = 0
    looks_with_waits: int = 0


class DatabaseWatch:
    """Looks ten times a second for the transaction that is open the longest, and for who waits for a lock."""

    def __init__(self, name: str, url: str, log: Path) -> None:
        self._name = name
        self._log = log
        # From another database of PostgreSQL, which counts for each: its own looks are not among what it counts.
        aside = make_url(url).set(database="postgres") if name == "postgresql" else url
        self._engine = create_engine(aside, isolation_level="AUTOCOMMIT", poolclass=StaticPool)
        self._own = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._asking = threading.Lock()
        self._strain = Strain(0, 0, 0.0, [])

    def __enter__(self) -> DatabaseWatch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._engine.dispose()

    def ask(self, question: str) -> list[Any]:
        """Rows, by the watch's own connection."""
        with self._asking, self._engine.connect() as connection:
            self._own += 1
            return list(connection.exec_driver_sql(question).all())

    def mark(self) -> Strain:
        """What was counted until now. What the watch sees from now on is looked at by itself."""
        self._strain = self._counted()
        return self._strain

    def strain(self, since: Strain) -> Strain:
        """What others than this watch have asked of the server since then."""
        counted = self._counted()
        return replace(
            since,
            calls=counted.calls - since.calls,
            deadlocks=counted.deadlocks - since.deadlocks,
            seconds=counted.seconds - since.seconds,
            logged_waits=counted.logged_waits[len(since.logged_waits) :],
        )

    def _counted(self) -> Strain:
        if self._name == "postgresql":
            self.ask("SELECT pg_stat_clear_snapshot()")
            ((calls, deadlocks),) = self.ask(
                "SELECT xact_commit + xact_rollback, deadlocks FROM pg_stat_database WHERE datname = 'bench'"
            )
        else:
            counted = dict(self.ask("SHOW GLOBAL STATUS WHERE Variable_name IN ('Questions', 'Innodb_deadlocks')"))
            calls, deadlocks = int(counted["Questions"]) - self._own, int(counted["Innodb_deadlocks"])
        text = self._log.read_text(errors="replace")
        waits = [float(waited) for waited in re.findall(r"acquired .* after ([\d.]+) ms", text)]
        return Strain(calls, deadlocks, time.monotonic(), waits)

    def _work(self) -> None:
        while not self._stop.wait(_LOOK_EVERY):
            try:
                self._look()
            except DBAPIError:
                continue  # a table was just being dropped, say

    def _look(self) -> None:
        rows, seen = self.ask(_OPEN[self._name]), self._strain
        waits = [float(waited) for _, waited in rows if waited is not None]
        seen.looks += 1
        seen.looks_with_waits += bool(waits)
        seen.longest_transaction = max([seen.longest_transaction, *(float(age) for age, _ in rows)])
        seen.longest_wait = max([seen.longest_wait, *waits])


_OPEN = {
    "postgresql": (
        "SELECT extract(epoch FROM clock_timestamp() - xact_start), "
        "CASE WHEN wait_event_type = 'Lock' THEN extract(epoch FROM clock_timestamp() - query_start) END "
        "FROM pg_stat_activity "
        "WHERE xact_start IS NOT NULL AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    ),
    "mysql": (
        "SELECT timestampdiff(MICROSECOND, trx_started, sysdate()) / 1e6, "
        "CASE WHEN trx_wait_started IS NOT NULL "
        "THEN timestampdiff(MICROSECOND, trx_wait_started, sysdate()) / 1e6 END FROM information_schema.innodb_trx"
    ),
}
"""For each open transaction its age, and for how long it waits for a lock, if it does; in seconds. MariaDB tells
since when in whole seconds."""


@dataclass
class Series:
    """A figure that is asked for again and again, with the time since it began."""

    ask: Callable[[], float]
    points: list[tuple[float, float]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)

    def look(self) -> float:
        value = self.ask()
        self.points.append((time.monotonic() - self.began, value))
        return value

    @property
    def values(self) -> list[float]:
        return [value for _, value in self.points]


def memory_of(processes: Iterable[psutil.Process]) -> dict[int, float]:
    """The resident memory of each process, in MB."""
    found = {}
    for process in processes:
        try:
            found[process.pid] = process.memory_info().rss / 1e6
        except psutil.NoSuchProcess:
            continue
    return found


def processor_seconds(processes: Iterable[psutil.Process]) -> float:
    """What these processes have used of processors so far."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def processor_use() -> str:
    """How busy the machine is, to be said beside a figure in time."""
    return f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
