"""A worker whose database hangs: it is not wedged. Another one takes its runs, and it comes free."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real import tasks
from tests.real.conftest import build
from tests.real.effects import effects
from tests.real.stage import Stage
from tests.services import Services
from tests.waiting import wait_until

from .wire import Wire

TIMEOUT = 90


@pytest.fixture
def stage(services: Services, tmp_path: Path) -> Iterator[Stage]:
    yield from build(services, tmp_path, "redis", "postgresql", durable_database_timeout="2s")


def test_a_worker_whose_database_hangs(stage: Stage) -> None:
    direct = stage.config_of_workers["durable_database_url"]
    wire = Wire(direct)
    stage.config_of_workers["durable_database_url"] = wire.url
    (stuck,) = stage.start_workers("stuck", concurrency=1)
    run = tasks.many_steps.delay(4, 0.5)
    wait_until(lambda: effects(run.id, "step-1"), TIMEOUT, "step-1 begins")
    wire.is_frozen = True
    stage.config_of_workers["durable_database_url"] = direct
    (other,) = stage.start_workers("other")
    assert run.get(timeout=TIMEOUT) == 4, "its lease ends, whatever hangs in its worker"
    other.stop()
    wire.is_frozen = False
    again = tasks.many_steps.delay(2, 0.1)
    assert again.get(timeout=TIMEOUT) == 2, "the worker that was stuck works again"
    assert {one.pid for one in effects(again.id)} <= {child.pid for child in stuck.process.children()}
    wire.cut()
