"""All that ``bench.comparisons`` compares, side by side in alternating turns: us, what is bare, and the other engines.

``BENCH_COMPARISONS`` names some of them, ``BENCH_DATABASES`` the databases; with ``--save`` what was measured is
recorded in ``docs/performance.json``, and the page and its pictures are made of it anew.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from bench import ours, plots, results
from bench.comparisons import ALL, BOTH, AtRest, Comparison, Way
from bench.harness import SERVERS
from bench.programs import ENGINES, LeftOut, Silent
from bench.resting import look_at_rest
from bench.watching import processor_use
from bench.workers import REDIS, answers

TURNS = int(os.environ.get("BENCH_TURNS", "5"))

Answers = dict[str, list[list[float]]]


def main(save: bool = False) -> None:
    wanted = os.environ.get("BENCH_COMPARISONS", " ".join(ALL)).split()
    databases = os.environ.get("BENCH_DATABASES", " ".join(BOTH)).split()
    print(f"\npeers: side by side, medians of {TURNS} alternating turns; in brackets how many times better ours is")
    if not answers(REDIS):
        print("  redis: does not answer, left out (set DURABLE_TEST_REDIS)")
        return
    left_out = _installed()
    with ExitStack() as servers:
        for database in list(databases):
            try:
                url = servers.enter_context(SPACES[database]())
            except Exception as error:
                print(f"  {database}: does not answer, left out: {error}")
                continue
            circumstances = results.circumstances(url, [key for key in ENGINES if key not in left_out])
            print("\n".join(f"  {name} {value}" for name, value in circumstances.items()))
            for name in wanted:
                record = _compare(ALL[name], database, left_out)
                if record and save:
                    results.save(circumstances, database, name, record)
                    plots.main()


def _compare(comparison: Comparison, database: str, left_out: dict[str, str]) -> dict[str, Any] | None:
    """One comparison on one database, printed; what is to be recorded of it, if anybody does it there."""
    ways = [way for way in comparison.ways if database in way.databases]
    if not ways:
        return None
    missing = comparison.missing | {way.label: left_out[way.program] for way in ways if way.program in left_out}
    ways = [way for way in ways if way.program not in left_out]
    load = os.getloadavg()[0]
    print(f"\n  {comparison.title}; {database} ({processor_use()})", flush=True)
    measure = look_at_rest if isinstance(comparison, AtRest) else in_turns
    try:
        answers = measure(comparison, ways, lambda program: opened(program, database, comparison.processes), TURNS)
    except Silent as error:
        print(f"    left out: {error}")
        return None
    record = results.record(comparison, ways, answers, missing, load)
    print("\n".join(f"    {line}" for line in results.lines(record)), flush=True)
    return record


def in_turns(comparison: Comparison, ways: list[Way], open_one: Any, turns: int) -> Answers:
    """The answers of each way in each turn. Every turn begins with another one."""
    found: Answers = {way.label: [] for way in ways}
    with ExitStack() as ending:
        programs = {name: ending.enter_context(open_one(name)) for name in dict.fromkeys(way.program for way in ways)}
        for turn in range(-1, turns):
            first = turn % len(ways)
            for way in ways[first:] + ways[:first]:
                answers = [
                    sample
                    for given in comparison.given
                    for sample in programs[way.program].ask(f"{way.measure} {given}")
                ]
                if turn >= 0:  # the one before is to warm up
                    found[way.label].append(answers)
    return found


@contextmanager
def opened(program: str, database: str, processes: int) -> Iterator[Any]:
    """A program on a new database of its own."""
    with SPACES[database]() as url:
        if program == "ours":
            with ours.opened(url, processes) as own:
                yield own
        elif program == "plain":
            with ours.opened(url, processes, "bench.bystander") as plain:
                yield plain
        else:
            with ENGINES[program].opened(url) as other:
                yield other


def _installed() -> dict[str, str]:
    """Which engines can't be had here, and why."""
    left_out = {}
    for key, engine in ENGINES.items():
        try:
            engine.installed()
        except LeftOut as error:
            left_out[key] = str(error)
            print(f"  {engine.name}: left out, {error}")
    return left_out


@contextmanager
def _on_postgresql() -> Iterator[str]:
    variable, url = SERVERS["postgresql"]
    server = make_url(os.environ.get(variable, url))
    name = f"bench_{uuid.uuid4().hex[:8]}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        engine.dispose()


@contextmanager
def _on_sqlite() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        yield f"sqlite:///{Path(folder) / 'bench.db'}"


SPACES = {"postgresql": _on_postgresql, "sqlite": _on_sqlite}
"""A new database of each kind."""
