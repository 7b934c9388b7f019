"""Events with real workers that die, brokers that forget, and emits that meet waits being registered."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from sqlalchemy import func, select

from celery_durable import Durable, emit
from tests.real.conftest import build
from tests.real.effects import effects
from tests.real.event_tasks import waits, waits_twice
from tests.real.stage import Stage
from tests.services import Services
from tests.waiting import wait_until


def test_the_worker_is_killed_while_the_event_wakes_its_run(stage: Stage) -> None:
    """The dispatch, or the pass that it woke, dies with the worker; another one does it."""
    (one,) = stage.start_workers("one")
    results = [waits.delay(f"k{number}") for number in range(20)]
    for result in results:
        stage.wait_for(result, "suspended")
    for number in range(20):
        emit("clicked", number, key=f"k{number}")
    one.container.kill()
    stage.start_workers("two")
    for number, result in enumerate(results):
        assert stage.wait_for(result, "completed", timeout=40).result == number
        assert len(effects(result.id, "after")) in (1, 2)


def test_the_broker_loses_the_dispatch(stage: Stage) -> None:
    result = waits.delay("k")
    stage.wipe_broker()
    emit("clicked", "found", key="k")
    stage.wipe_broker()
    stage.start_workers("one")
    assert stage.wait_for(result, "completed", timeout=40).result == "found"


# -- The race


@pytest.fixture(params=[("redis", "postgresql"), ("rabbitmq", "mysql"), ("redis", "sqlite")], ids="-".join)
def racing_stage(request: pytest.FixtureRequest, services: Services, tmp_path: Any) -> Iterator[Stage]:
    broker, database = request.param
    for stage in build(services, tmp_path, broker, database):
        stage.start_workers("one", "two")
        yield stage


@pytest.mark.slow
def test_emits_that_meet_waits_being_registered(racing_stage: Stage) -> None:
    """Each of many runs waits for two events, which come before, while, and after it registers its waits.

    DURABLE_RACE_RUNS=5000 makes it a long one.
    """
    runs, stage = int(os.environ.get("DURABLE_RACE_RUNS", "400")), racing_stage
    results: dict[int, Any] = {}
    luck = random.Random(5)
    emit = Durable(stage.app).emit  # a thread has no current app

    def emit_second(numbers: list[int]) -> None:
        for number in numbers:
            wait_until(partial(results.__contains__, number), 60, "its run is started")
            emit("race", [number, 1], key=f"k{number}")
            threading.Event().wait(luck.uniform(0, 0.004))
            emit("race", [number, 2], key=f"k{number}")

    numbers = list(range(runs))
    emitters = [threading.Thread(target=emit_second, args=(numbers[part::2],)) for part in range(2)]
    for emitter in emitters:
        emitter.start()
    for number in numbers:
        results[number] = waits_twice.delay(f"k{number}")
    for emitter in emitters:
        emitter.join()
    for number, result in results.items():
        assert stage.wait_for(result, "completed", timeout=60).result == [[number, 1], [number, 2]]
    taken, wait = stage.store.tables.taken, stage.store.tables.wait
    with stage.store.engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(taken)).scalar_one() == 2 * runs
        assert connection.execute(select(func.count()).select_from(wait)).scalar_one() == 0
