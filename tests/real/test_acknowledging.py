"""A message is acknowledged after its pass, and a little later where others wait for the process that is free then;
but it is, also if the worker stops right after."""

from __future__ import annotations

import pytest

from tests.real import tasks
from tests.real.stage import Stage
from tests.real.test_asleep import messages_out
from tests.waiting import wait_until

RUNS = 40


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_all_messages_are_acknowledged(stage: Stage, pool: str) -> None:
    (worker,) = stage.start_workers("one", pool=pool, concurrency=1)
    results = [tasks.many_steps.delay(2, 0.0) for _ in range(RUNS)]
    assert [result.get(timeout=60) for result in results] == [2] * RUNS
    wait_until(lambda: messages_out(stage) == 0, 20, "no message is out")
    worker.container.stop()
    assert messages_out(stage) == 0


def test_those_of_a_worker_that_stops_amid_its_work(stage: Stage) -> None:
    """What it has not begun goes back, and nothing else does."""
    (worker,) = stage.start_workers("one", concurrency=1)
    for _ in range(RUNS):
        tasks.many_steps.apply_async((2, 0.01), ignore_result=True)
    wait_until(lambda: stage.count("completed") >= 5, 30, "some are done")
    worker.container.stop()
    done = stage.count("completed")
    assert 5 <= done < RUNS
    assert messages_out(stage) == RUNS - done
