"""How the message of a run that sleeps is sent ahead."""

from __future__ import annotations

from datetime import datetime, timedelta

from celery import Celery

from celery_durable import DurableTask, step
from celery_durable.core.duration import SECOND
from celery_durable.worker.runtime import runtime_of
from tests.worker.conftest import Desk
from tests.worker.test_ordinary import trace


def test_a_wake_up_comes_a_little_before_its_time(app: Celery, desk: Desk) -> None:
    """Whoever takes the run waits for the rest: it is not executed before its time."""

    @app.task(shared=False, base=DurableTask, name="naps")
    def naps(seconds: float) -> None:
        step.sleep("nap", seconds)

    runtime_of(app).ahead = 4 * SECOND
    results = {seconds: naps.delay(seconds) for seconds in (5, 0.004)}
    assert len(desk.messages()) == 2
    etas = {}
    for seconds, result in results.items():
        trace(app, "naps", result.id)
        (message,) = desk.messages()
        assert message.headers["id"] == result.id
        etas[seconds] = message.headers["eta"]
    trace(app, "naps", results[0.004].id)

    assert etas[0.004] is None
    wake_at = desk.row(results[5].id)["wake_at"] / SECOND
    assert -4 <= datetime.fromisoformat(etas[5]).timestamp() - wake_at < -1  # writing and sending it take a while
    run = desk.durable.get(results[0.004].id)
    assert run.status == "completed"
    assert run.finished_at is not None
    assert run.steps[0].started_at is not None
    assert run.finished_at - run.steps[0].started_at >= timedelta(milliseconds=4)
