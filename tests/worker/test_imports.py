"""What is imported when: as late as it is needed in a process that declares tasks, and before the pool forks in a
worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NEEDED_BY_MODELS = {"celery_durable.model", "pydantic.fields"}
NEEDED_BY_WORKERS = {
    "celery.app.control",
    "celery.worker.control",
    "celery.worker.request",
    "celery_durable.engine.executor",
    "celery_durable.engine.loop",
    "celery_durable.engine.tasks",
    "celery_durable.worker.bootsteps",
    "celery_durable.worker.request",
    "celery_durable.worker.revoking",
    "celery_durable.worker.running",
    "celery_durable.worker.sweeper",
}
NEEDED_BY_STARTS = {
    "celery_durable.core.redaction",
    "celery_durable.engine.settings",
    "celery_durable.store.base",
    "celery_durable.store.statements",
    "celery_durable.store.store",
    "celery_durable.store.tables",
    "sqlalchemy.dialects.mysql",
    "sqlalchemy.dialects.postgresql",
    "sqlalchemy.dialects.sqlite",
    "sqlite3",
}
NEEDED_BY_OPERATORS = {
    "alembic",
    "celery_durable.cli",
    "celery_durable.client",
    "celery_durable.console",
    "celery_durable.contrib",
    "celery_durable.testing",
    "celery_durable.worker.durable",
    "sqlalchemy.orm",
}

IMPORTS = "import sys\nfrom celery_durable import DurableTask, step, emit\n"
DECLARES = """
from celery import Celery
app = Celery("shop", broker="memory://")
app.conf.durable_database_url = {url!r}

@app.task(base=DurableTask)
def order(number: int) -> int:
    step.sleep("nap", "1h")
    return number

app.finalize()
"""
STARTS = "order.delay(1)\n"
PASSES = """
from types import SimpleNamespace
from celery.app.trace import build_tracer
from celery_durable.worker.bootsteps import SweeperStep

@app.task(base=DurableTask)
async def asynchronous() -> None:
    from celery_durable.aio import step
    await step.sleep("nap", "1h")

def make_pass(task, *args):
    request = {{"id": task.delay(*args).id, "delivery_info": {{}}, "hostname": "w", "is_eager": False}}
    info = build_tracer(task.name, task, app=app)(request["id"], args, {{}}, request).info
    assert type(info.retval).__name__ == "RunParked", info

SweeperStep(SimpleNamespace(app=app))
before = set(sys.modules)
make_pass(order, 1)
make_pass(asynchronous)
late = {{name for name in set(sys.modules) - before if name.startswith("celery_durable.")}}
assert late == {{"celery_durable.aio", "celery_durable.engine.awaiting"}}, late
"""


def loaded(program: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nprint(*sys.modules)"], check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("more", ["", "from celery_durable.aio import step"], ids=["def", "async def"])
def test_who_imports_the_verbs_waits_for_nothing_else(more: str) -> None:
    others = NEEDED_BY_MODELS | NEEDED_BY_WORKERS | NEEDED_BY_STARTS | NEEDED_BY_OPERATORS
    assert loaded(IMPORTS + more) & others == set()


def test_who_declares_tasks_waits_for_nothing_else(tmp_path: Path) -> None:
    others = NEEDED_BY_MODELS | NEEDED_BY_WORKERS | NEEDED_BY_STARTS | NEEDED_BY_OPERATORS
    assert loaded(IMPORTS + DECLARES.format(url=f"sqlite:///{tmp_path / 'x.db'}")) & others == set()


def test_who_starts_runs_does_not_wait_for_what_executes_them(tmp_path: Path) -> None:
    # The tables are made, which Alembic does.
    others = NEEDED_BY_MODELS | NEEDED_BY_WORKERS | NEEDED_BY_OPERATORS - {"alembic"}
    assert loaded((IMPORTS + DECLARES + STARTS).format(url=f"sqlite:///{tmp_path / 'x.db'}")) & others == set()


def test_a_worker_has_all_that_a_pass_needs_before_its_pool_forks(tmp_path: Path) -> None:
    loaded((IMPORTS + DECLARES + PASSES).format(url=f"sqlite:///{tmp_path / 'x.db'}"))


@pytest.mark.parametrize("name", sorted(NEEDED_BY_WORKERS | NEEDED_BY_STARTS | NEEDED_BY_OPERATORS | NEEDED_BY_MODELS))
def test_each_of_these_is_there(name: str) -> None:
    """A module that is moved would be missed by nobody here."""
    subprocess.run([sys.executable, "-c", f"import {name}"], check=True)
