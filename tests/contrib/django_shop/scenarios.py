"""``python -m tests.contrib.django_shop.scenarios``: does in the project what its input says, a line of JSON with a
name and arguments each time, and answers with what came of it. Django's settings hold for a whole process."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any
from unittest.mock import patch

import django

django.setup()

from django.db import connection, transaction  # noqa: E402
from django.test.utils import setup_databases, setup_test_environment, teardown_databases  # noqa: E402

from celery_durable import Durable  # noqa: E402
from celery_durable.store.records import Fence  # noqa: E402
from celery_durable.testing import DurableEnv  # noqa: E402
from celery_durable.worker.runtime import flush_all, runtime_of  # noqa: E402

from . import tasks  # noqa: E402
from .celery import app  # noqa: E402
from .models import Order  # noqa: E402


def order(number: str) -> str:
    Order.objects.create(number=number)
    return number


def paid(number: str) -> int:
    return int(Order.objects.get(number=number).paid)


def steps(run_id: str) -> dict[str, str]:
    return {step.id: step.status for step in Durable(app).get(run_id).steps}


def run(task: str, number: str) -> dict[str, Any]:
    """Execute a task. A message too many changes nothing."""
    order(number)
    first = getattr(tasks, task).apply([number], task_id=number)
    again = getattr(tasks, task).apply([number], task_id=number)
    assert (first.state, again.state) == ("SUCCESS", "IGNORED"), first.result
    return {"result": first.result, "paid": paid(number), "steps": steps(number)}


def side_by_side(*numbers: str) -> dict[str, Any]:
    result = tasks.side_by_side.apply([[order(number) for number in numbers]]).result
    return {"result": result, "paid": [paid(number) for number in numbers]}


def die(moment: str, number: str) -> None:
    """Die right before or right after the commit of the first transaction over the ORM."""
    order(number)
    commit = connection._commit

    def dying() -> None:
        if moment == "after":
            commit()
        os._exit(9)

    connection._commit = dying
    tasks.paying.apply([number], task_id=number)


def recover(number: str) -> dict[str, Any]:
    """Another worker takes the run."""
    before = {"paid": paid(number), "steps": list(steps(number))}
    store = runtime_of(app).store
    with store.link() as link:
        found = store.get(link, number)
        assert found is not None
        assert store.recover(link, Fence(number, found[0]["token"]))
    result = tasks.paying.apply([number], task_id=number).result
    return {"before": before, "result": result, "paid": paid(number)}


def overtaken(number: str) -> dict[str, Any]:
    """Somebody else has the run by the time its step is recorded."""
    order(number)
    store = runtime_of(app).store
    record = store.record_within

    def too_late(execution: Any, fence: Fence, *step: Any) -> bool:
        return record(execution, Fence(fence.run_id, fence.token + 1), *step)

    with patch.object(store, "record_within", too_late):
        state = tasks.paying.apply([number], task_id=number).state
    return {"state": state, "paid": paid(number), "steps": list(steps(number))}


def late_writes(number: str) -> dict[str, Any]:
    """What a function still does after its time is up comes to nothing."""
    result = tasks.too_late.apply([order(number)], task_id=number).result
    while any(thread.is_alive() for thread in tasks.late):
        time.sleep(0.01)
    return {"result": result, "paid": paid(number), "went_on": len(tasks.late)}


def inside_atomic(number: str) -> dict[str, Any]:
    order(number)
    with transaction.atomic():
        result = tasks.paying.apply([number], task_id=number).result
    return {"error": str(result), "paid": paid(number)}


def in_the_kit(number: str) -> dict[str, Any]:
    """With the testing kit the records are in memory, and the orders in Django's database."""
    order(number)
    before = len(list(Durable(app).runs()))
    with DurableEnv(app) as env, transaction.atomic():
        result, inside = env.start(tasks.paying, number).result, paid(number)
        transaction.set_rollback(True)
    return {"result": result, "inside": inside, "paid": paid(number), "runs": len(list(Durable(app).runs())) - before}


def in_a_test_run(database: str) -> dict[str, Any]:
    """As a test runner does it. On SQLite, Django's test databases are in memory."""
    settings = connection.settings_dict
    settings["OPTIONS"].pop("options", None)  # they name a schema, and the new database has none but its own
    settings["TEST"]["NAME"] = database or None
    setup_test_environment()
    databases = setup_databases(verbosity=0, interactive=False)
    result = tasks.paying.apply([order("t")], task_id="in-a-test-run").result
    status = Durable(app).get("in-a-test-run").status
    flush_all()
    teardown_databases(databases, verbosity=0)
    return {"result": result, "status": status}


def runs() -> list[str]:
    return [run.id for run in Durable(app).runs()]


def main() -> None:
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        sys.stdout.write(json.dumps(globals()[name](*arguments)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
