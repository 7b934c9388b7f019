"""What ordinary tasks have to do with the durable ones of their app: nothing, unless a run has called them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery import Celery
from celery.app.trace import build_tracer
from celery.exceptions import Ignore, Reject
from celery.utils.imports import symbol_by_name
from celery.worker.request import Request
from sqlalchemy import event

from celery_durable import DurableTask, step
from celery_durable.worker.message import PASS_HEADER
from celery_durable.worker.reporting import REPORT
from celery_durable.worker.request import DurableRequest, OrdinaryRequest, hear_silence
from celery_durable.worker.runtime import runtime_of
from tests.worker.called import Tasks
from tests.worker.conftest import Desk

OF_EACH_TASK = """
from celery import Celery, signals
from celery_durable import DurableTask

app = Celery("shop", broker="memory://")

@app.task(base=DurableTask)
def order() -> None: ...

app.finalize()
for name in (
    "before_task_publish", "after_task_publish", "task_sent", "task_received", "task_prerun", "task_postrun",
    "task_success",
):
    assert not getattr(signals, name).receivers, name
"""
"""Whoever listens to one of these makes every task of every app in the process slower."""


def test_no_signal_of_each_task_is_listened_to() -> None:
    subprocess.run([sys.executable, "-c", OF_EACH_TASK], check=True)


@pytest.fixture
def tasks(app: Celery) -> Tasks:
    return Tasks(app)


class Called:
    """A run's call of an ordinary task, whose message has come to a worker."""

    def __init__(self, desk: Desk, tasks: Tasks) -> None:
        @desk.app.task(shared=False, base=DurableTask, name="caller")
        def caller() -> Any:
            return step.call("it", tasks.add.s(1, 2))

        self.desk = desk
        run = caller.delay()
        (message,) = desk.messages()
        trace(desk.app, "caller", run.id)
        (message,) = desk.messages()
        self.request = request_of(desk.app, message)

    @property
    def status(self) -> str:
        return str(self.desk.row(self.request.id)["status"])


@pytest.fixture
def called(desk: Desk, tasks: Tasks) -> Called:
    return Called(desk, tasks)


def trace(app: Celery, name: str, task_id: str) -> Any:
    """What Celery makes of the end of a pass."""
    request = {"id": task_id, "headers": {PASS_HEADER: 0}, "delivery_info": {}, "hostname": "w", "is_eager": False}
    return build_tracer(name, app.tasks[name], app=app)(task_id, (), {}, request).info


def request_of(app: Celery, message: Any) -> Any:
    hear_silence(app)
    requests = symbol_by_name(app.tasks["add"].Request)
    return requests(message, app=app, task=app.tasks["add"], hostname="w")


def end(request: Any, error: BaseException) -> None:
    """What a worker's main process is told of a task that has raised this."""
    try:
        raise error
    except BaseException:
        request.on_failure(ExceptionInfo(), return_ok=True)


@pytest.mark.parametrize("error", [Ignore("nothing to do"), Reject("not for me", requeue=False)], ids=repr)
def test_a_called_task_that_ends_without_a_result_has_failed(called: Called, error: Exception) -> None:
    end(called.request, error)
    row = called.desk.row(called.request.id)
    assert row["status"] == "failed"
    assert f"ended without a result: it raised {error!r}" in row["error"]
    assert called.request.acknowledged


@pytest.mark.parametrize("error", [Ignore("Replaced by new task"), Reject("later", requeue=True)], ids=repr)
def test_a_called_task_that_goes_on_has_not_ended(called: Called, error: Exception) -> None:
    """Under its id: as another task, or when its message comes again."""
    end(called.request, error)
    assert called.status == "pending"


def test_what_can_not_be_recorded_is_sent(called: Called) -> None:
    store = runtime_of(called.desk.app).store
    store.tables.metadata.drop_all(store.engine)
    end(called.request, Ignore("nothing to do"))
    assert [message.headers["task"] for message in called.desk.messages()] == [REPORT]
    assert called.request.acknowledged


def test_of_a_task_that_no_run_has_called_nothing_is_asked(desk: Desk, app: Celery, tasks: Tasks) -> None:
    tasks.add.delay(1, 2)
    (message,) = desk.messages()
    asked: list[str] = []
    event.listen(runtime_of(app).store.engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    end(request_of(app, message), Ignore("nothing to do"))
    assert not asked


def test_a_task_keeps_its_own_class_of_requests(app: Celery, tasks: Tasks) -> None:
    class Own(Request):  # type: ignore[misc, unused-ignore]
        pass

    tasks.add.Request = Own
    for _ in range(2):  # a worker that starts again in this process
        hear_silence(app)
    assert tasks.add.Request.__mro__[:3] == (tasks.add.Request, OrdinaryRequest, Own)
    assert symbol_by_name(tasks.double.Request) is DurableRequest
