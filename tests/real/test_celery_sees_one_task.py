"""Two suspensions in the middle of a task, and Celery sees one task that took a while."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from celery import chain, chord, group, uuid
from celery.backends import redis
from celery.exceptions import TaskRevokedError

from tests.real import tasks
from tests.real.effects import effects
from tests.real.stage import Stage
from tests.waiting import wait_until

TIMEOUT = 20
CLAIMS = hasattr(redis, "CHORD_PART_RETURN_LUA")
"""Celery 5.7: who brings the last part of a chord claims that it starts the body."""


@pytest.fixture
def stage(shared_stage: Stage) -> Stage:
    return shared_stage


def names(run: str) -> list[str]:
    return [one.name for one in effects(run)]


def test_a_lone_task(stage: Stage) -> None:
    result = tasks.twice_parked.delay(1)
    assert result.get(timeout=TIMEOUT) == 2
    assert result.state == "SUCCESS"
    assert names(result.id) == ["begin", "middle", "end"]
    assert stage.run(result).passes == 3


def test_what_it_waits_for_is_shown(stage: Stage) -> None:
    result = tasks.naps.delay(1.5)
    wait_until(lambda: result.state == "STARTED", TIMEOUT, "the parked run is shown")
    assert "the sleep 'nap'" in result.info["waiting_on"]
    assert result.info["until"] is not None
    assert result.get(timeout=TIMEOUT) == "after"


def test_a_failure_is_the_result(stage: Stage) -> None:
    result = tasks.twice_parked.delay(1, fail=True)
    with pytest.raises(ValueError, match="failed with 1"):
        result.get(timeout=TIMEOUT)
    assert result.state == "FAILURE"


@pytest.mark.parametrize(
    ("make", "value"),
    [
        pytest.param(lambda one, plain: chain(one.s(1), plain.s()), ["plain", 2], id="first in a chain"),
        pytest.param(lambda one, plain: chain(plain.si(), one.si(1), plain.s()), ["plain", 2], id="middle of a chain"),
        pytest.param(lambda one, plain: chain(plain.si(), one.si(5)), 6, id="last in a chain"),
        pytest.param(lambda one, plain: chain(one.s(1), one.s(), one.s()), 4, id="thrice in a chain"),
        pytest.param(lambda one, plain: group(one.s(1), plain.s(7), one.s(2)), [2, ["plain", 7], 3], id="group"),
        pytest.param(lambda one, plain: chord([one.s(1), one.s(2)], plain.s()), ["plain", [2, 3]], id="chord header"),
        pytest.param(lambda one, plain: chord([plain.s(1), plain.s(2)], one.si(5)), 6, id="chord body"),
        pytest.param(
            lambda one, plain: group(chain(one.s(1), one.s()), chain(plain.si(), one.si(3))),
            [3, 4],
            id="chains in a group",
        ),
    ],
)
def test_canvas(stage: Stage, make: Callable[[Any, Any], Any], value: Any) -> None:
    assert make(tasks.twice_parked, tasks.plain).apply_async().get(timeout=TIMEOUT) == value


def test_a_chord_goes_on_whose_last_part_was_killed_while_it_started_the_body(stage: Stage) -> None:
    """Seen in a storm: the claim of a worker that was dead by then kept the body from being started, for ever."""
    result = chord([tasks.twice_parked.s(1), tasks.twice_parked.s(2)], tasks.plain.s()).apply_async()
    backend = stage.app.backend
    claim = backend.get_key_for_group(result.parent.id, ".c")
    backend.client.set(claim, "of a dead worker", ex=3)
    assert result.get(timeout=60) == ["plain", [2, 3]]
    assert names(result.id) == ["plain"]
    if CLAIMS:
        assert backend.client.get(claim) == b"done"


def test_callbacks_come_once_and_at_the_end(stage: Stage) -> None:
    run = uuid()
    tasks.twice_parked.apply_async((1,), task_id=run, link=tasks.note.s(run, "callback"))
    wait_until(lambda: "callback" in names(run), TIMEOUT, "the callback comes")
    wait_until(lambda: stage.run(run).delivered_at, TIMEOUT, "the result is marked as delivered")
    assert names(run) == ["begin", "middle", "end", "callback"]


def test_error_callbacks_come_once(stage: Stage) -> None:
    run = uuid()
    tasks.twice_parked.apply_async(
        (1, True), task_id=run, link=tasks.note.s(run, "callback"), link_error=tasks.note_error.s(run)
    )
    wait_until(lambda: "errback" in names(run), TIMEOUT, "the error callback comes")
    wait_until(lambda: stage.run(run).delivered_at, TIMEOUT, "the result is marked as delivered")
    assert names(run) == ["begin", "middle", "end", "errback"]


def test_an_ignored_result_is_not_stored(stage: Stage) -> None:
    result = tasks.twice_parked.apply_async((1,), ignore_result=True)
    stage.wait_for(result, "completed")
    wait_until(lambda: stage.run(result).delivered_at, TIMEOUT, "the end is marked as delivered")
    assert stage.celery.AsyncResult(result.id).state == "PENDING"


@pytest.mark.parametrize("near", [True, False])
def test_a_delayed_start(stage: Stage, near: bool) -> None:
    delay = {"countdown": 1} if near else {"eta": datetime.now(timezone.utc) + timedelta(seconds=1)}
    result = tasks.twice_parked.apply_async((1,), **delay)
    assert stage.run(result).status == "pending"
    assert result.get(timeout=TIMEOUT) == 2
    run = stage.run(result)
    assert run.started_at is not None
    assert (run.started_at - run.created_at).total_seconds() >= 0.95


def test_an_expiry_is_for_the_start_only(stage: Stage) -> None:
    result = tasks.naps.apply_async((3,), expires=2)
    assert result.get(timeout=TIMEOUT) == "after"

    late = tasks.naps.apply_async((0,), expires=-1)
    with pytest.raises(TaskRevokedError):
        late.get(timeout=TIMEOUT)
    assert stage.wait_for(late, "cancelled").status == "cancelled"
    assert names(late.id) == []


def test_a_bound_typed_and_a_locked_task(stage: Stage) -> None:
    assert tasks.typed.delay({"id": "o-1", "amount": 1}).get(timeout=TIMEOUT) == {"id": "o-1", "amount": 2}
    assert tasks.single.delay().get(timeout=TIMEOUT) == "end"


def test_a_retry_of_the_body_keeps_finished_steps(stage: Stage) -> None:
    result = tasks.retried.delay()
    assert result.get(timeout=TIMEOUT) == 2
    assert names(result.id) == ["kept", "failing", "failing", "failing"]


def test_retries_of_a_step_are_parked(stage: Stage) -> None:
    result = tasks.flaky.delay()
    assert result.get(timeout=TIMEOUT) == 4
    assert names(result.id) == ["flaky"] * 4
    assert stage.run(result).passes == 4


@pytest.mark.parametrize(
    ("task", "error"), [(tasks.hard_limited, TimeLimitExceeded), (tasks.soft_limited, SoftTimeLimitExceeded)]
)
def test_time_limits_end_the_run(stage: Stage, task: Any, error: type[Exception]) -> None:
    result = task.delay()
    with pytest.raises(error):
        result.get(timeout=TIMEOUT)
    assert stage.wait_for(result, "failed").error is not None


def test_a_message_sent_by_name_starts_a_run(stage: Stage) -> None:
    result = stage.celery.send_task("tests.real.tasks.twice_parked", (4,), task_id=uuid())
    assert result.get(timeout=TIMEOUT) == 5
    assert stage.run(result).args == [4]
