"""What the package costs those who do not use it now: importing it, and ordinary tasks in an app that has durable
ones.

Bytecode is written and read, in a folder of this benchmark's own, as it is where a package is installed: an environment
in which Python is told not to write any would have every module compiled again by each process."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from functools import cache
from tempfile import TemporaryDirectory

from bench.harness import alternate

TURNS = 7
CALLS = 2_000

IMPORTS = {
    "the package, by itself": "import celery_durable",
    "what a module with tasks imports": "from celery_durable import DurableTask, step, emit",
    "and the client": "from celery_durable import Durable, DurableTask, step, emit",
}
BEFORE = (
    "import celery; from celery import Celery, Task, shared_task; Celery.task; Task.delay; import sqlalchemy; "
    "from pydantic import BaseModel, TypeAdapter"
)
"""What the package needs and an application usually has: Celery, SQLAlchemy and pydantic."""

_ORDINARY = """
import os, time
from celery.app.trace import build_tracer
{beside}
from bench.bystander import app, nothing
app.conf.update(broker_url="memory://", task_ignore_result=True)
app.finalize()
trace = build_tracer(nothing.name, nothing, app=app)
request = {{"delivery_info": {{}}, "hostname": "here", "id": "x", "task": nothing.name, "ignore_result": True}}
for _ in range({calls}): trace("x", (), {{}}, request)
began = time.process_time()
for _ in range({calls}): trace("x", (), {{}}, request)
print((time.process_time() - began) / {calls})
"""
_DURABLE_BESIDE = "os.environ['BENCH_BESIDE'] = '1'"


@cache
def _bytecode() -> TemporaryDirectory[str]:
    return TemporaryDirectory()  # removed when this process ends


def _environment() -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**others, "PYTHONPYCACHEPREFIX": _bytecode().name}


def _printed(program: str) -> float:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True, env=_environment()
    )
    return float(done.stdout.split()[-1])


def import_seconds(statement: str, before: str = "") -> float:
    """Processor seconds of an import in a fresh process, after what is imported before."""
    return _printed(
        f"import time\n{before}\nbegan = time.process_time()\n{statement}\nprint(time.process_time() - began)"
    )


def ordinary_seconds(*, beside: bool) -> float:
    """Processor seconds of executing one ordinary task that does nothing."""
    return _printed(_ORDINARY.format(beside=_DURABLE_BESIDE if beside else "", calls=CALLS))


def main() -> None:
    print(f"\nimports: processor time in fresh processes, medians of {TURNS}; milliseconds")
    for what, statement in IMPORTS.items():
        import_seconds(statement)  # writes the bytecode
        alone = statistics.median(import_seconds(statement) for _ in range(TURNS)) * 1000
        after = statistics.median(import_seconds(statement, BEFORE) for _ in range(TURNS)) * 1000
        print(f"  {what:<33} {alone:5.0f}   where Celery, SQLAlchemy and pydantic are imported {after:5.0f}")
    own, other, ratio = alternate(TURNS, lambda: ordinary_seconds(beside=True), lambda: ordinary_seconds(beside=False))
    print(
        f"  an ordinary task, executed by Celery's tracer: {own * 1e6:.1f} microseconds in an app with a durable task, "
        f"{other * 1e6:.1f} in one without, ratio {ratio:.2f}"
    )
