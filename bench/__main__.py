"""Run the benchmarks: ``python -m bench [name ...]``. With ``--save``, ``peers`` records what it has measured."""

from __future__ import annotations

import argparse
import platform
import signal
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

from bench import (
    asleep,
    backlog,
    console,
    events,
    fanout,
    footprint,
    idle,
    imports,
    latency,
    load,
    orders,
    parallel,
    peers,
    replay,
    steps,
    suspends,
    testing,
)

BENCHMARKS: dict[str, Callable[[], None]] = {
    "steps": steps.main,
    "peers": peers.main,
    "replay": replay.main,
    "parallel": parallel.main,
    "orders": orders.main,
    "latency": latency.main,
    "events": events.main,
    "suspends": suspends.main,
    "fanout": fanout.main,
    "imports": imports.main,
    "testing": testing.main,
    "console": console.main,
    "load": load.main,
    "asleep": asleep.main,
    "backlog": backlog.main,
    "idle": idle.main,
    "footprint": footprint.main,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Run the benchmarks, or some.")
    parser.add_argument("name", nargs="*", help=", ".join(BENCHMARKS))
    parser.add_argument("--save", action="store_true", help="record what peers measures, for the documentation")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started, and made, is ended and dropped then
    benchmarks: dict[str, Callable[[], None]] = {**BENCHMARKS, "peers": partial(peers.main, save=given.save)}
    chosen = given.name or list(benchmarks)
    unknown = [name for name in chosen if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    packages = ", ".join(f"{name} {version(name)}" for name in ("celery", "sqlalchemy", "pydantic"))
    print(f"Python {platform.python_version()}, {packages}, {platform.machine()}")
    for name in chosen:
        benchmarks[name]()


if __name__ == "__main__":
    main()
