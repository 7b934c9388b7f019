"""Events with real workers: what wakes, starts and ends runs."""

from __future__ import annotations

import time
from functools import partial

import pytest
from celery import chain, chord
from celery.exceptions import TaskRevokedError

from celery_durable import Durable, EventTimeout, emit
from tests.real.effects import effects
from tests.real.event_tasks import add_one, asks_and_answers, gather, waits
from tests.real.stage import Stage
from tests.waiting import wait_until


def test_an_event_wakes_the_run_that_waits_for_it(shared_stage: Stage) -> None:
    key = f"k{time.time()}"
    result = waits.delay(key)
    shared_stage.wait_for(result, "suspended")
    assert result.state == "STARTED"
    assert result.info == {"waiting_on": f"the event 'clicked' with the key '{key}'", "until": None}

    other = emit("clicked", "not you", key="another")
    receipt = emit("clicked", {"by": "u1"}, key=key)

    assert result.get(timeout=10) == {"by": "u1"}
    assert len(effects(result.id, "after")) == 1
    durable = Durable(shared_stage.app)
    wait_until(lambda: durable.event(receipt.id).dispatched_at, 10, "it is dispatched")
    assert durable.event(receipt.id).woke == (result.id,)
    wait_until(lambda: durable.event(other.id).dispatched_at, 10, "the other one is dispatched")
    assert durable.event(other.id).woke == ()
    (step, _) = durable.get(result.id).steps
    assert step.result.id == receipt.id


def test_an_event_that_comes_first_is_taken(shared_stage: Stage) -> None:
    key = f"k{time.time()}"
    result = waits.apply_async((key,), countdown=1)
    emit("clicked", "early", key=key)
    assert result.get(timeout=10) == "early"


def test_an_event_from_before_the_start_is_not(shared_stage: Stage) -> None:
    key = f"k{time.time()}"
    emit("clicked", "too early", key=key)
    result = waits.delay(key, "1s")
    assert result.get(timeout=10) is None


def test_what_a_timeout_does(shared_stage: Stage) -> None:
    none, fail, cancel = (waits.delay("never", "500ms", what) for what in ("none", "fail", "cancel"))
    assert none.get(timeout=10) is None
    with pytest.raises(EventTimeout, match="'clicked' with the key 'never' did not come within 500ms"):
        fail.get(timeout=10)
    with pytest.raises(TaskRevokedError):
        cancel.get(timeout=10)
    assert cancel.state == "REVOKED"
    assert [shared_stage.run(result).status for result in (none, fail, cancel)] == ["completed", "failed", "cancelled"]
    assert not effects(cancel.id)
    wait_until(lambda: shared_stage.run(cancel).delivered_at, 10, "the cancelled run counts as delivered")


def test_waits_in_a_chain_and_in_a_chord(shared_stage: Stage) -> None:
    key = f"k{time.time()}"
    chained = chain(waits.s(f"{key}-chain"), add_one.s()).delay()
    group = chord([waits.s(f"{key}-1"), waits.s(f"{key}-2"), add_one.s("plain")])(gather.s())
    for name in ("chain", "1", "2"):
        emit("clicked", name, key=f"{key}-{name}")
    assert chained.get(timeout=15) == ["chain", 1]
    assert group.get(timeout=15) == ["1", "2", "['plain', 1]"]


def started_by(durable: Durable, event_id: str) -> tuple[str, ...]:
    return durable.event(event_id).started


def test_an_event_starts_one_run_of_each_task_that_it_triggers(shared_stage: Stage) -> None:
    durable = Durable(shared_stage.app)
    names = [f"c{number}-{time.time()}" for number in range(10)]
    ids = [emit("customer.created", {"plan": "pro", "name": name}).id for name in names]
    for event_id in ids * 2:  # however often it is dispatched
        shared_stage.app.tasks["celery_durable.dispatch"].delay(event_id)
    free = emit("customer.created", {"plan": "free", "name": "nobody"})
    for name, event_id in zip(names, ids, strict=True):
        assert wait_until(partial(started_by, durable, event_id), 10, "a run is started")
        (started,) = durable.event(event_id).started
        assert shared_stage.wait_for(started, "completed").result[:2] == ["customer.created", event_id]
        assert len(effects(name, "greet")) == 1
    wait_until(lambda: durable.event(free.id).dispatched_at, 10, "the last one is dispatched")
    assert durable.event(free.id).started == ()


def test_runs_that_start_and_wake_each_other_by_events(shared_stage: Stage) -> None:
    name = f"a{time.time()}"
    result = asks_and_answers.delay(name)
    assert result.get(timeout=20) == {"name": name}
    (emitted,) = Durable(shared_stage.app).events(name="welcomed", key=name)
    assert emitted.woke == (result.id,)
    assert emitted.emitted_by is not None
    assert shared_stage.run(emitted.emitted_by).task == "tests.real.event_tasks.welcome"
