"""Eager mode: the same code in this process, with nothing to wait for."""

from __future__ import annotations

import time
from typing import Any

import pytest
from celery import Celery, chain

from celery_durable import ConfigurationError, DurableTask, EventTimeout, NotInDurableTask, Retry, step
from tests.worker.conftest import Desk


def test_sleeps_and_backoffs_pass_at_once(desk: Desk, app: Celery) -> None:
    calls = []

    def flaky() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError("not yet")
        return len(calls)

    @app.task(shared=False, base=DurableTask, step_retry=Retry(delay="1h"))
    def flow() -> Any:
        step.sleep("a-week", "1w")
        tries = step.run("flaky", flaky)
        step.sleep_until("later", time.time() + 3600)
        return {"tries": tries}

    began = time.monotonic()
    result = flow.apply()
    assert result.get() == {"tries": 3}
    assert time.monotonic() - began < 600, "of a week"
    run = desk.durable.get(result.id)
    assert run.status == "completed"
    assert [(one.id, one.status, one.attempts) for one in run.steps] == [
        ("a-week", "completed", 1),
        ("flaky", "completed", 3),
        ("later", "completed", 1),
    ]


def test_always_eager_runs_a_chain_through(app: Celery) -> None:
    app.conf.task_always_eager = True

    @app.task(shared=False, base=DurableTask)
    def add(a: int, b: int) -> int:
        step.sleep("1d")
        return step.run("add", lambda: a + b)

    assert chain(add.s(1, 2), add.s(10)).apply_async().get() == 13


def test_an_error_is_the_result(desk: Desk, app: Celery) -> None:
    @app.task(shared=False, base=DurableTask)
    def fails() -> None:
        raise ValueError("no")

    result = fails.apply()
    assert isinstance(result.result, ValueError)
    run = desk.durable.get(result.id)
    assert run.status == "failed"
    assert run.error is not None
    assert (run.error.type, run.error.message) == ("ValueError", "no")


def test_a_retried_body_keeps_its_finished_steps(desk: Desk, app: Celery) -> None:
    effects: list[str] = []

    def effect(name: str) -> None:
        effects.append(name)
        if effects.count("second") == 1:
            raise ValueError("first time")

    @app.task(
        shared=False,
        base=DurableTask,
        bind=True,
        autoretry_for=(ValueError,),
        step_retry=Retry(max_attempts=1),
        max_retries=3,
    )
    def flow(self: Any) -> int:
        step.run("first", effect, "first")
        step.run("second", effect, "second")
        return int(self.request.retries)

    assert flow.apply().get() == 1
    assert effects == ["first", "second", "second"]


def test_retries_of_the_body_end(app: Celery) -> None:
    @app.task(shared=False, base=DurableTask, bind=True, max_retries=2)
    def flow(self: Any) -> None:
        raise self.retry(exc=ValueError("again"), countdown=60)

    result = flow.apply()
    assert isinstance(result.result, ValueError)


def test_a_plain_call_is_the_plain_function(app: Celery) -> None:
    @app.task(shared=False, base=DurableTask)
    def plain(a: int) -> int:
        return a + 1

    @app.task(shared=False, base=DurableTask)
    def flow() -> None:
        step.sleep("1s")

    assert plain(1) == 2
    with pytest.raises(NotInDurableTask, match=r"step\.sleep was called in flow\(\).*base=DurableTask"):
        flow()


def test_a_wrong_retry_policy_is_refused_where_it_is_declared(app: Celery) -> None:
    @app.task(shared=False, base=DurableTask, step_retry=3)
    def flow() -> None: ...

    with pytest.raises(ConfigurationError, match="step_retry"):
        app.finalize()


def test_a_time_that_is_up_is_no_reason_to_retry_the_run(desk: Desk, app: Celery) -> None:
    @app.task(shared=False, base=DurableTask, autoretry_for=(Exception,), max_retries=3, retry_backoff=False)
    def flow() -> None:
        step.wait_for_event("never", timeout="1h", on_timeout="fail")

    result = flow.apply()
    with pytest.raises(EventTimeout):
        result.get()
    assert desk.durable.get(result.id).retries == 0
