"""What kills workers, doubles messages or empties the broker, and what is left of it: nothing."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import Any

import pytest

from tests.real import tasks
from tests.real.effects import effects
from tests.real.stage import Stage
from tests.waiting import wait_until

TIMEOUT = 30


def counts(run: Any) -> dict[str, int]:
    return dict(Counter(one.name for one in effects(run.id)))


def test_a_killed_child_costs_one_repeated_step(stage: Stage) -> None:
    stage.start_workers("one")
    result = tasks.many_steps.delay(3, 0.5)
    (begun,) = wait_until(lambda: effects(result.id, "step-1"), TIMEOUT, "step-1 begins")
    os.kill(begun.pid, signal.SIGKILL)
    assert result.get(timeout=TIMEOUT) == 3
    assert counts(result) == {"step-0": 1, "step-1": 2, "step-2": 1}


def test_a_killed_worker_is_taken_over_within_its_lease(stage: Stage) -> None:
    one, _ = stage.start_workers("one", "two")
    runs = [tasks.many_steps.delay(4, 0.5) for _ in range(4)]
    wait_until(lambda: all(effects(run.id, "step-1") for run in runs), TIMEOUT, "all runs are under way")
    one.kill()
    # The broker gives the messages of the dead one to another much later: Redis in an hour.
    assert [run.get(timeout=60) for run in runs] == [4] * 4
    for run in runs:
        done = counts(run)
        assert set(done) == {f"step-{index}" for index in range(4)}
        assert sum(done.values()) <= 5, "one step at most ran twice: the one that was killed"


def test_five_copies_of_a_message_do_the_work_once(stage: Stage) -> None:
    stage.start_workers("one", "two")
    result = tasks.many_steps.apply_async((6, 0.1), countdown=1)
    stage.send_copies(result, 5, delay=1.05)
    assert result.get(timeout=TIMEOUT) == 6
    assert counts(result) == {f"step-{index}": 1 for index in range(6)}
    assert stage.run(result).passes == 1


def test_a_broker_that_forgets_everything(stage: Stage) -> None:
    stage.start_workers("one")
    runs = [tasks.naps.delay(5) for _ in range(5)]
    for run in runs:
        stage.wait_for(run, "suspended")
    stage.wipe_broker()
    assert [run.get(timeout=60) for run in runs] == ["after"] * 5
    assert all(counts(run) == {"before": 1, "after": 1} for run in runs)


def test_a_warm_shutdown_hands_the_run_over_at_once(stage: Stage) -> None:
    (one,) = stage.start_workers("one", concurrency=1)
    result = tasks.many_steps.delay(60, 0.2)
    wait_until(lambda: effects(result.id, "step-2"), TIMEOUT, "the run is under way")
    one.stop()
    assert stage.run(result).status == "suspended", "the worker did not wait for the 60 steps"
    recorded = len(stage.run(result).steps)

    stage.start_workers("two", concurrency=1)
    wait_until(lambda: len(stage.run(result).steps) > recorded, TIMEOUT, "another worker goes on")
    assert max(counts(result).values()) == 1, "the step under way was finished, and none was repeated"


def test_a_cold_shutdown_loses_nothing(stage: Stage) -> None:
    one, _ = stage.start_workers("one", "two", concurrency=1)
    runs = [tasks.many_steps.delay(4, 0.5) for _ in range(2)]
    wait_until(lambda: all(effects(run.id, "step-0") for run in runs), TIMEOUT, "both runs are under way")
    one.kill("SIGQUIT")
    assert [run.get(timeout=60) for run in runs] == [4, 4]


def test_a_run_that_kills_its_workers_is_paused(stage: Stage) -> None:
    stage.start_workers("one")
    result = tasks.poison.delay()
    run = stage.wait_for(result, "paused", timeout=60)
    assert run.waiting_on is not None
    assert "3 workers died" in run.waiting_on
    assert counts(result) == {"fine": 1}
    wait_until(lambda: result.state == "STARTED", 5, "the reason is shown")
    assert "3 workers died" in result.info["waiting_on"]

    healthy = tasks.twice_parked.delay(1)
    assert healthy.get(timeout=TIMEOUT) == 2, "the worker is well"


def test_a_run_whose_task_is_gone_is_not_lost(stage: Stage) -> None:
    run = tasks.naps.apply_async((0,), task_id="orphan", countdown=60)
    table = stage.store.tables.run
    with stage.store.link() as link:
        link.run(
            lambda connection: connection.execute(
                table.update().where(table.c.id == "orphan").values(task="removed.by.a.deploy", wake_at=None, due_at=1)
            )
        )
    stage.start_workers("one")
    wait_until(lambda: "is not registered" in (stage.run(run).waiting_on or ""), TIMEOUT, "it is set aside")
    assert stage.run(run).status in ("suspended", "paused")
    assert run.state == "PENDING", "Celery was not told that it failed"
    with stage.store.link() as link:
        link.run(
            lambda connection: connection.execute(
                table.update().where(table.c.id == "orphan").values(task=tasks.naps.name, due_at=1)
            )
        )
    assert run.get(timeout=TIMEOUT) == "after", "a deploy that brings it back lets it go on"


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "solo"])
def test_pools(services: Any, tmp_path: Any, pool: str) -> None:
    from tests.real.conftest import build

    for stage in build(services, tmp_path, "redis", "postgresql"):
        with stage.store.link() as link:
            link.run(lambda connection: connection.exec_driver_sql("CREATE TABLE payment (run VARCHAR(60))"))
        stage.start_workers("one", pool=pool, concurrency=1 if pool == "solo" else 4)
        paid = [tasks.transacts.delay() for _ in range(4)]
        others = [tasks.flaky.delay(), tasks.retried.delay(), tasks.twice_parked.delay(1)]
        assert [run.get(timeout=TIMEOUT) for run in paid] == ["paid"] * 4
        assert [run.get(timeout=TIMEOUT) for run in others] == [4, 2, 2]
        with stage.store.link() as link:
            rows = link.run(lambda connection: connection.exec_driver_sql("SELECT run FROM payment").scalars().all())
        assert sorted(rows) == sorted(run.id for run in paid)
