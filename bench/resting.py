"""Programs that are looked at from outside while they do nothing: what they hold, use, and ask of the database."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import psutil
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from bench.comparisons import Comparison, Way
from bench.watching import memory_of, processor_seconds

SETTLE, WINDOW = 20.0, 12.0
"""Seconds before the first look, and between two."""

Opener = Callable[[str], AbstractContextManager[Any]]


def look_at_rest(comparison: Comparison, ways: list[Way], open_one: Opener, turns: int) -> dict[str, list[list[float]]]:
    return (_idle if comparison.name == "idle" else _parked)(comparison, ways, open_one, turns)


def _parked(comparison: Comparison, ways: list[Way], open_one: Opener, turns: int) -> dict[str, list[list[float]]]:
    """Memory and threads that are there after the runs have been parked, and were not before. What has been freed may
    be used again: so each is a program of its own, and alone.
    """
    found: dict[str, list[list[float]]] = {way.label: [] for way in ways}
    for _ in range(turns):
        for way in ways:
            with open_one(way.program) as program:
                program.ask(f"{way.measure} 1")  # what the first run loads is not held for each
                time.sleep(2)
                before = _held(program.processes())
                program.ask(f"{way.measure} {comparison.given[0]}")
                time.sleep(2)
                after = _held(program.processes())
            found[way.label].append([now - then for now, then in zip(after, before, strict=True)])
    return found


def _held(processes: list[psutil.Process]) -> tuple[float, float]:
    return sum(memory_of(processes).values()), float(sum(process.num_threads() for process in processes))


def _idle(comparison: Comparison, ways: list[Way], open_one: Opener, turns: int) -> dict[str, list[list[float]]]:
    """All at once, for so many windows of time."""
    found: dict[str, list[list[float]]] = {way.label: [] for way in ways}
    with ExitStack() as ending:
        programs = {way.label: ending.enter_context(open_one(way.program)) for way in ways}
        time.sleep(SETTLE)
        before = {label: _used(program) for label, program in programs.items()}
        for _ in range(turns):
            time.sleep(WINDOW)
            for label, program in programs.items():
                now = _used(program)
                asked, used, seconds = (new - old for new, old in zip(now, before[label], strict=True))
                found[label].append([asked / seconds, used / seconds * 100])
                before[label] = now
    return found


def _used(program: Any) -> tuple[float, float, float]:
    """Transactions of its database, seconds of a processor, and the time."""
    url = make_url(program.url)
    engine = create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:  # from another database: this look is not among what is counted
        ((transactions,),) = connection.exec_driver_sql(
            f"SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = '{url.database}'"
        )
    return float(transactions), processor_seconds(program.processes()), time.monotonic()
