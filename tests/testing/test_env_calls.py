"""Tasks that call others, and canvas around durable tasks, in an environment."""

from __future__ import annotations

from typing import Any

import pytest
from celery import chain, chord, group

from celery_durable import CallFailed, Retry, StepFailed, step
from celery_durable.testing import DurableEnv

from .conftest import Declare


def test_children_durable_and_ordinary(env: DurableEnv, durable: Declare, ordinary: Declare) -> None:
    @ordinary
    def add(one: int, two: int) -> int:
        return one + two

    @durable
    def child(number: int) -> int:
        step.sleep("nap", "1h")
        return number * 2

    @durable
    def parent() -> Any:
        with step.parallel() as p:
            calls = [p.call("child", child.s(4)), p.call("add", add.s(1, 2))]
        return [call.result() for call in calls]

    run = env.start(parent)
    assert len(run.record.children) == 2
    env.run_until_idle()
    run.assert_completed([8, 3])


def test_calls_that_fail(env: DurableEnv, durable: Declare, ordinary: Declare) -> None:
    @ordinary
    def refuses() -> None:
        raise LookupError("nothing there")

    @durable
    def refuses_durably() -> None:
        raise LookupError("nothing there")

    @durable
    def parent() -> Any:
        found = []
        for task in (refuses, refuses_durably):
            try:
                step.options(retry=Retry(max_attempts=1)).call(task.name, task.s())
            except (CallFailed, StepFailed, LookupError) as error:
                found.append(str(error))
        return found

    run = env.start(parent)
    env.run_until_idle()
    assert ["nothing there" in text for text in run.result] == [True, True]


def test_a_canvas_as_a_step(env: DurableEnv, durable: Declare, ordinary: Declare) -> None:
    @ordinary
    def add(one: int, two: int) -> int:
        return one + two

    @ordinary
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @durable
    def double(number: int) -> int:
        step.sleep("1h")
        return number * 2

    @durable
    def parent() -> Any:
        return [
            step.call("chain", chain(add.s(1, 2), double.s(), add.s(4))),
            step.call("chord", chord([add.s(1, 1), double.s(2)], total.s())),
            step.call("group", group(double.s(1), add.s(2, 2))),
        ]

    run = env.start(parent)
    env.run_until_idle()
    run.assert_completed([10, 6, [2, 4]])


def test_canvas_around_durable_tasks(env: DurableEnv, durable: Declare, ordinary: Declare) -> None:
    linked = []

    @ordinary
    def note(value: Any) -> Any:
        linked.append(value)
        return value

    @durable
    def double(number: int) -> int:
        step.sleep("1h")
        return number * 2

    results = [
        chain(double.s(1), double.s(), note.s()).apply_async(),
        chord([double.s(1), double.s(2)], note.s()).apply_async(),
        group(double.s(1), double.s(2)).apply_async(),
        double.apply_async((5,), link=note.s()),
    ]
    env.run_until_idle()
    assert [result.get(timeout=1) for result in results] == [4, [2, 4], [2, 4], 10]
    assert sorted(map(str, linked)) == ["10", "4", "[2, 4]"]


def test_an_errback(env: DurableEnv, durable: Declare, ordinary: Declare) -> None:
    told = []

    @ordinary
    def tell(request: Any, error: Any, traceback: Any) -> None:
        told.append(str(error))

    @durable
    def fails() -> None:
        step.sleep("1h")
        raise LookupError("nothing there")

    env.start(fails.s().set(link_error=tell.s()))
    assert told == []
    env.advance("1h")
    assert told == ["nothing there"]


def test_an_ordinary_task_that_retries(env: DurableEnv, durable: Declare, ordinary: Declare) -> None:
    attempts = []

    @ordinary(bind=True, max_retries=3)
    def retries(self: Any) -> Any:
        attempts.append(env.now)
        if len(attempts) < 3:
            raise self.retry(countdown=60)
        return len(attempts)

    @durable
    def parent() -> Any:
        return step.call("call", retries.s())

    run = env.start(parent)
    env.run_until_idle()
    run.assert_completed(3)
    assert (attempts[2] - attempts[0]).total_seconds() == 120


def test_a_task_that_is_not_here_is_told(env: DurableEnv, durable: Declare) -> None:
    @durable
    def parent() -> Any:
        return step.options(retry=Retry(max_attempts=1)).call("call", "elsewhere.task")

    run = env.start(parent)
    env.run_until_idle()
    run.assert_failed("env.mock")


@pytest.mark.parametrize("name", ["elsewhere.task", "elsewhere.*"])
def test_a_task_that_is_not_here_can_be_mocked(app: Any, env: DurableEnv, durable: Declare, name: str) -> None:
    @durable
    def parent() -> Any:
        return step.call("call", app.signature("elsewhere.task", (1,)))

    mock = env.mock(name, returns=5)
    run = env.start(parent)
    run.assert_completed(5)
    assert mock.calls[0].args == (1,)
