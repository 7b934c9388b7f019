"""Calls in eager mode: what is called is executed at once, in this process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from celery.exceptions import NotRegistered

from celery_durable import CallFailed, DurableTask, Retry, step
from celery_durable.aio import step as astep
from tests.worker.conftest import Desk

from .called import Tasks


@pytest.fixture
def tasks(app: Celery) -> Tasks:
    return Tasks(app)


@contextmanager
def no_longer_than(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


@pytest.fixture
def eager(app: Celery) -> Celery:
    app.conf.task_always_eager = True
    return app


def call_eagerly(app: Celery, make: Any) -> Any:
    @app.task(shared=False, base=DurableTask, name="caller")
    def caller() -> Any:
        return step.call("it", make())

    with no_longer_than(60):
        return caller.delay()


@pytest.mark.parametrize(
    ("make", "value"),
    [
        pytest.param(lambda t: t.add.s(1, 2), 3, id="ordinary"),
        pytest.param(lambda t: t.double.s(4), 8, id="durable"),
        pytest.param(lambda t: chain(t.add.s(1, 2), t.double.s(), t.add.s(1)), 7, id="chain"),
        pytest.param(lambda t: group(t.add.s(1, 2), t.double.s(1)), [3, 2], id="group"),
        pytest.param(lambda t: chord([t.add.s(1, 2), t.double.s(1)], t.total.s()), 5, id="chord"),
        pytest.param(lambda t: chain(t.add.s(1, 1), group(t.add.s(1), chain(t.add.s(2))), t.total.s()), 7, id="nested"),
        pytest.param(lambda t: t.add.s(1, 2).set(countdown=3600), 3, id="ordinary later"),
        pytest.param(lambda t: t.double.s(4).set(countdown=3600), 8, id="durable later"),
    ],
)
def test_eager_calls(eager: Celery, tasks: Tasks, make: Any, value: Any) -> None:
    assert call_eagerly(eager, lambda: make(tasks)).get() == value


def test_a_run_that_is_applied_sends_nothing(desk: Desk, app: Celery, tasks: Tasks) -> None:
    """Without ``task_always_eager``: what it calls is executed here, too, and no worker hears of it."""

    @app.task(shared=False, base=DurableTask, name="caller")
    def caller() -> Any:
        return [step.call("ordinary", tasks.add.s(1, 2)), step.call("durable", tasks.double.s(2))]

    assert caller.apply().get() == [3, 4]
    assert not desk.messages()


@pytest.mark.parametrize("propagates", [False, True])
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        pytest.param(lambda t: t.fails.s("no"), ValueError, id="ordinary"),
        pytest.param(lambda t: t.fails_durably.s("no"), KeyError, id="durable"),
        pytest.param(lambda t: chain(t.add.s(1), t.fails.si("no")), ValueError, id="chain"),
        pytest.param(lambda t: group(t.add.s(1), t.fails_durably.s("no")), KeyError, id="group"),
        pytest.param(lambda t: t.add.app.signature("unknown"), (CallFailed, NotRegistered), id="unknown"),
    ],
)
def test_eager_failures_are_raised_at_the_step(
    eager: Celery, tasks: Tasks, make: Any, kind: Any, propagates: bool
) -> None:
    """Whether Celery raises the errors of eager tasks or keeps them: the body may catch this one."""
    eager.conf.task_eager_propagates = propagates

    @eager.task(shared=False, base=DurableTask, name="catches")
    def catches() -> str:
        try:
            step.call("it", make(tasks))
        except kind as error:
            return f"caught: {'called' in str(getattr(error, '__notes__', ''))}"
        return "nothing"

    assert catches.delay().get() == "caught: True"


def test_an_eager_parallel_block(eager: Celery, tasks: Tasks) -> None:
    @eager.task(shared=False, base=DurableTask, name="flow")
    def flow() -> list[Any]:
        with step.parallel() as block:
            parts = [block.call("durable", tasks.double.s(4)), block.call("ordinary", tasks.add.s(1, 2))]
            parts += [block.run("local", int, "7"), block.sleep("nap", "1d")]
        return [part.result() for part in parts]

    with no_longer_than(60):
        assert flow.delay().get() == [8, 3, 7, None]


def test_an_eager_race_is_won_by_a_call(eager: Celery, tasks: Tasks) -> None:
    @eager.task(shared=False, base=DurableTask, name="flow")
    def flow() -> Any:
        with step.race() as race:
            race.sleep("nap", "1d")
            race.call("durable", tasks.double.s(4))
        assert race.winner is not None
        return race.winner.result()

    assert flow.delay().get() == 8


def test_an_eager_call_is_called_again(eager: Celery) -> None:
    tries = []

    @eager.task(shared=False, name="flaky")
    def flaky() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("not yet")
        return len(tries)

    @eager.task(shared=False, base=DurableTask, name="flow")
    def flow() -> Any:
        return step.options(retry=Retry(max_attempts=3, delay="1h")).call("it", flaky.s())

    with no_longer_than(60):
        assert flow.delay().get() == 3


def async_flow(app: Celery, tasks: Tasks) -> Any:
    @app.task(shared=False, base=DurableTask, name="flow")
    async def flow() -> list[Any]:
        return list(
            await asyncio.gather(
                astep.call("durable", tasks.double.s(4)),
                astep.call("ordinary", tasks.add.s(1, 2)),
                astep.call("canvas", chain(tasks.add.s(1), tasks.double.s())),
                astep.sleep("nap", "1d"),
            )
        )

    return flow


def test_an_eager_async_task(eager: Celery, tasks: Tasks) -> None:
    with no_longer_than(60):
        assert async_flow(eager, tasks).delay().get() == [8, 3, 2, None]


def test_an_eager_async_task_within_an_event_loop(eager: Celery, tasks: Tasks) -> None:
    """As from an async view."""
    flow = async_flow(eager, tasks)

    async def view() -> Any:
        return flow.delay().get()

    with no_longer_than(60):
        assert asyncio.run(view()) == [8, 3, 2, None]


def test_an_eager_call_within_an_event_loop(eager: Celery, tasks: Tasks) -> None:
    async def view() -> Any:
        return call_eagerly(eager, lambda: chain(tasks.add.s(1, 2), tasks.double.s())).get()

    assert asyncio.run(view()) == 6


def test_an_async_task_that_is_called_by_a_def_one(eager: Celery, tasks: Tasks) -> None:
    flow = async_flow(eager, tasks)

    @eager.task(shared=False, base=DurableTask, name="outer")
    def outer() -> Any:
        return step.call("it", flow.s())

    assert outer.delay().get() == [8, 3, 2, None]
