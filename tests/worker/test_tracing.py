"""What a worker makes of a pass that parks, in the process that executes it."""

from __future__ import annotations

import pickle
import sys
import uuid

import pytest
from celery import Celery
from celery.app.trace import build_tracer

from celery_durable import DurableTask, step
from celery_durable.worker.running import RunParked
from tests.worker.conftest import Desk


@pytest.mark.skipif(sys.version_info < (3, 11), reason="a traceback is small there: it has no positions")
def test_a_pass_that_parks_makes_no_copy_of_its_traceback(app: Celery, desk: Desk) -> None:
    """It took longer than all else about it, and was sent to the worker's main process."""

    @app.task(shared=False, base=DurableTask, name="naps")
    def naps() -> None:
        step.sleep("nap", "1h")

    naps.__trace__ = build_tracer("naps", naps, app=app)  # as a worker does
    run_id = naps.delay().id
    request = {"id": run_id, "delivery_info": {}, "hostname": "w", "is_eager": False}

    outcome, info, _, _ = naps.__trace__(run_id, (), {}, request)

    assert info.state == "IGNORED"
    assert isinstance(info.retval, RunParked)
    left = info.retval.__traceback__
    assert (left.tb_next, left.tb_frame.f_code.co_name) == (None, "_nothing")  # no frame that holds it
    assert outcome.tb.tb_next is None
    assert len(pickle.dumps(outcome)) < 3_000
    assert desk.durable.get(run_id).status == "suspended"


def test_what_comes_of_an_ordinary_task_is_left_as_it_is(app: Celery) -> None:
    @app.task(shared=False, name="fails")
    def fails() -> None:
        raise ValueError("no")

    fails.__trace__ = build_tracer("fails", fails, app=app)
    task_id = uuid.uuid4().hex
    outcome, info, _, _ = fails.__trace__(task_id, (), {}, {"id": task_id, "delivery_info": {}, "is_eager": False})

    assert info.state == "FAILURE"
    assert outcome.tb.tb_next is not None
