"""What the assertions of a run say when they fail."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from typing import Any

import pytest

from celery_durable import NonRetryable, Retry, step
from celery_durable.testing import DurableEnv, EnvRun

from .conftest import Declare

NOON = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)


class Refused(LookupError):
    """Of this test."""


def refuse() -> None:
    raise Refused("nothing\nthere " + "x" * 100)


@pytest.fixture
def parked(app: Any, durable: Declare) -> Any:
    @durable
    def order(name: str) -> None:
        step.run("create", str.upper, name)
        step.sleep("nap", "3d")
        step.wait_for_event("paid")

    with DurableEnv(app, now=NOON) as env:
        yield env.start(order.s("Ann").set(task_id="order-1"))


@pytest.fixture
def failed(env: DurableEnv, durable: Declare) -> EnvRun:
    @durable
    def fails() -> None:
        step.options(retry=Retry(max_attempts=1)).run("refuse", refuse)

    return env.start(fails)


def told(assertion: Any, *args: Any) -> str:
    with pytest.raises(AssertionError) as caught:
        assertion(*args)
    return str(caught.value)


def test_the_table(parked: EnvRun) -> None:
    assert told(parked.assert_completed).splitlines() == [
        "the run is suspended, not completed",
        "run order-1 of order: suspended, waiting for the sleep 'nap' (3d) until 2030-01-04 12:00:00",
        "  step    kind   status     attempts  input                  result",
        "  create  run    completed  1         [['Ann'], {}]          'ANN'",
        "  nap     sleep  waiting    1         {'seconds': 259200.0}  until 2030-01-04 12:00:00",
    ]


def test_assert_steps(parked: EnvRun) -> None:
    parked.assert_steps("create", "nap")
    text = told(parked.assert_steps, "create", "send")
    assert "missing: send; not expected: nap" in text
    assert "expected: create, send" in text
    assert "run order-1" in text
    assert "in another order" in told(parked.assert_steps, "nap", "create")
    assert "missing: more" in told(parked.assert_steps, "create", "nap", "more")
    assert "not expected: create, nap" in told(parked.assert_steps)


def test_one_that_is_asked_for_twice_is_no_other_order(parked: EnvRun) -> None:
    assert "create" in told(parked.assert_steps, "create", "create", "nap")


def test_assert_steps_of_a_list(parked: EnvRun) -> None:
    with pytest.raises(TypeError, match="assert_steps"):
        parked.assert_steps(["create", "nap"])  # type: ignore[arg-type]


def test_assert_status_and_waiting(parked: EnvRun) -> None:
    parked.assert_status("suspended")
    parked.assert_waiting_on("nap")
    assert "suspended, not failed" in told(parked.assert_status, "failed")
    assert "does not wait for 'paid'" in told(parked.assert_waiting_on, "paid")
    assert "suspended, not failed" in told(parked.assert_failed)


def test_assert_completed(env: DurableEnv, durable: Declare) -> None:
    @durable
    def works() -> Any:
        return {"a": [1, 2]}

    run = env.start(works)
    run.assert_completed()
    run.assert_completed({"a": [1, 2]})
    text = told(run.assert_completed, {"a": 1})
    assert "the result is {'a': [1, 2]}, not {'a': 1}" in text
    assert "(no steps)" in text
    assert "completed, not failed" in told(run.assert_failed)
    assert "not None" in told(run.assert_completed, None)


def test_assert_failed(failed: EnvRun) -> None:
    failed.assert_failed()
    failed.assert_failed(Refused)
    failed.assert_failed("nothing")
    failed.assert_failed(LookupError)
    failed.assert_failed(Exception)
    assert "Refused, not of KeyError" in told(failed.assert_failed, KeyError)
    assert "does not say 'money'" in told(failed.assert_failed, "money")
    assert "failed, not completed" in told(failed.assert_completed)


def test_long_values_are_one_line_each(failed: EnvRun) -> None:
    lines = told(failed.assert_completed).splitlines()
    (refused,) = [line for line in lines if line.startswith("  refuse  run")]
    assert "Refused: nothing there xxx" in refused
    assert len(refused) < 200


def test_where_it_has_failed_is_told(failed: EnvRun) -> None:
    """In the body, and in the function of the step; not in this package."""
    *_, body, function = told(failed.assert_completed).splitlines()
    assert re.fullmatch(rf"  raised at {re.escape(__file__)}, line \d+, in fails", body)
    assert re.fullmatch(rf"  in step 'refuse' at {re.escape(__file__)}, line \d+, in refuse", function)


def test_one_step(parked: EnvRun) -> None:
    assert parked.step("create").result == "ANN"
    text = told(parked.step, "creat")
    assert "no step 'creat'" in text
    assert "run order-1" in text


def test_children(env: DurableEnv, durable: Declare) -> None:
    @durable
    def child(number: int) -> int:
        return number

    @durable
    def parent() -> Any:
        return step.map("numbers", abs, [1]) + [step.call(f"child-{n}", child.s(n)) for n in range(2)]

    run = env.start(parent)
    run.assert_completed([1, 0, 1])
    assert [child.result for child in run.children] == [0, 1]


def test_children_that_are_ordinary_tasks_are_not_runs(env: DurableEnv, durable: Declare, ordinary: Declare) -> None:
    @ordinary
    def plain() -> int:
        return 1

    @durable
    def parent() -> Any:
        return step.call("plain", plain.s())

    run = env.start(parent)
    for child in run.children:
        assert child.status == "completed"


def test_its_repr(parked: EnvRun) -> None:
    assert repr(parked) == (
        "<run order-1 of order: suspended, waiting for the sleep 'nap' (3d) until 2030-01-04 12:00:00>"
    )


def test_the_repr_of_one_that_has_failed_is_one_line(failed: EnvRun) -> None:
    assert "Refused: nothing there" in repr(failed)
    assert "\n" not in repr(failed)


def test_two_runs_are_equal_if_they_are_one(env: DurableEnv, failed: EnvRun) -> None:
    assert env.run(failed.id) == failed
    assert env.runs == [failed]


def test_an_error_that_is_not_retried(env: DurableEnv, durable: Declare) -> None:
    @durable
    def ends() -> None:
        raise NonRetryable("over")

    env.start(ends).assert_failed(NonRetryable)
