"""``step.call`` with real workers: what may be called, what comes of it, and what is cancelled with what."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from celery import chord, uuid

from celery_durable import Durable, Run
from tests.real import call_tasks as tasks
from tests.real.app import app
from tests.real.conftest import DATABASES, build
from tests.real.effects import effect, effects
from tests.real.stage import Stage
from tests.services import Services
from tests.waiting import wait_until

TIMEOUT = 30
UNKNOWN = "is not registered in the worker"


def forget_backend() -> None:
    """Celery keeps the result backend that it has made once."""
    app._local.__dict__.pop("backend", None)
    app._backend_cache = None


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def stage(request: pytest.FixtureRequest, services: Services, tmp_path_factory: Any) -> Iterator[Stage]:
    """Over Redis with a result backend, over RabbitMQ without one. One worker has a queue of its own."""
    config: dict[str, Any] = {"imports": ["tests.real.call_tasks"], "worker_enable_remote_control": True}
    if request.param == "rabbitmq":
        config["result_backend"] = None
    before = {name: app.conf[name] for name in (*config, "result_backend")}
    folder = tmp_path_factory.mktemp("stage")
    for stage in build(services, folder, request.param, DATABASES[request.param], **config):
        forget_backend()
        stage.start_workers("plain", options=("-Q", "celery"))
        stage.start_workers("special", concurrency=1, options=("-Q", "other"))
        yield stage
    app.conf.update(before)
    forget_backend()


def ended(stage: Stage, result: Any, status: str = "completed", timeout: float = TIMEOUT) -> Run:
    run = stage.wait_for(result, "completed", "failed", "cancelled", "paused", timeout=timeout)
    assert run.status == status, (run.status, run.result, run.error, run.waiting_on)
    return run


def children(stage: Stage, run_id: Any) -> dict[str, str]:
    """The children of a run and their statuses, by their steps."""
    run = stage.store.tables.run
    wanted = run.select().where(run.c.parent_id == getattr(run_id, "id", run_id))
    with stage.store.link() as link:
        rows = link.run(lambda connection: connection.execute(wanted).all())
    return {row.parent_step: row.status for row in rows}


def child_of(stage: Stage, run_id: Any) -> str:
    run = stage.store.tables.run
    wanted = run.select().where(run.c.parent_id == getattr(run_id, "id", run_id))
    with stage.store.link() as link:
        (row,) = link.run(lambda connection: connection.execute(wanted).all())
    return str(row.id)


def names(label: str) -> Counter[str]:
    return Counter(one.name for one in effects(label))


# ------------------------------------------------------------------- what may be called


@pytest.mark.parametrize("name", tasks.GIVEN)
def test_what_may_be_called(stage: Stage, name: str) -> None:
    result = tasks.calls.delay(name)
    run = ended(stage, result)
    assert run.result == tasks.GIVEN[name][1]
    assert run.passes <= 2
    assert [one.kind for one in run.steps] == ["call"]


@pytest.mark.parametrize(
    ("name", "type", "text"),
    [
        ("ordinary", "ValueError", "plainly"),
        ("durable", "KeyError", "'durably'"),
        ("ignored", "CallFailed", "ended without a result: it raised Ignore('nothing to do')"),
        ("rejected", "CallFailed", "ended without a result: it raised"),
        ("chain", "ValueError", "in a chain"),
        ("group", "ValueError", "in a group"),
        ("chord", "KeyError", "'in a chord'"),
        ("body", "ValueError", "in a body"),
        ("unknown", "CallFailed", UNKNOWN),
        ("unknown in a chain", "CallFailed", UNKNOWN),
    ],
)
def test_a_failure_is_raised_as_what_it_was(stage: Stage, name: str, type: str, text: str) -> None:
    result = tasks.calls_failing.delay(name)
    caught = ended(stage, result).result
    assert caught["type"] == type
    assert text in caught["text"]
    assert any(f"step 'it' of run {result.id} called " in note for note in caught["notes"])


def test_another_queue(stage: Stage) -> None:
    result = tasks.calls_in_queue.delay(uuid(), "other")
    assert ended(stage, result).result == ["special@real", "special@real", ["special@real"] * 2]


def test_a_countdown(stage: Stage) -> None:
    began = time.monotonic()
    result = tasks.calls_later.delay(2)
    assert ended(stage, result).result == [4, 3, 4]
    assert time.monotonic() - began >= 2


def test_a_countdown_of_a_whole_canvas(stage: Stage) -> None:
    began = time.monotonic()
    result = tasks.calls_canvas_later.delay(2)
    assert ended(stage, result).result == 4
    assert time.monotonic() - began >= 2


def test_a_typed_result(stage: Stage) -> None:
    assert ended(stage, tasks.calls_typed.delay()).result == [["o1", 5], ["o2", 6], ["o3", 7]]


def test_five_deep(stage: Stage) -> None:
    assert ended(stage, tasks.deep.delay(5)).result == 6


def test_three_hundred_children_take_few_passes(stage: Stage) -> None:
    run = ended(stage, tasks.many.delay(300), timeout=120)
    assert run.result == 2 * sum(range(300))
    assert run.passes <= 5


def test_an_async_task_gathers_calls(stage: Stage) -> None:
    assert ended(stage, tasks.gathers.delay()).result == [8, 3, 4, None, None]


def test_calls_beside_local_functions_and_sleeps(stage: Stage) -> None:
    assert ended(stage, tasks.mixes.delay()).result == [8, 3, 7, None]


def test_a_call_in_a_member_of_a_chord(stage: Stage) -> None:
    if stage.config_of_workers["result_backend"] is None:
        pytest.skip("Celery's own chords need a result backend")
    result = chord([tasks.calls.s("chain"), tasks.calls.s("ordinary"), tasks.add.s(1, 1)])(tasks.total.s())
    assert result.get(timeout=TIMEOUT) == 12 + 3 + 2


def test_a_failed_call_is_called_again(stage: Stage) -> None:
    label = uuid()
    run = ended(stage, tasks.calls_again.delay(label))
    assert run.result == 3
    assert names(label) == {"tried": 3}
    assert run.steps[0].attempts == 3


# ------------------------------------------------------------------- cancelling


def test_a_race_cancels_what_it_has_called(stage: Stage) -> None:
    label = uuid()
    result = tasks.races.delay(label)
    assert stage.wait_for(result, "completed", "failed", timeout=TIMEOUT).result is True
    wait_until(lambda: children(stage, result) == {"slow": "cancelled"}, TIMEOUT, "the child is cancelled")
    assert names(label) == {"clean-asleep": 1}
    assert [(one.id, one.status) for one in stage.run(result).steps] == [("slow", "cancelled"), ("nap", "completed")]


def test_a_failing_branch_cancels_its_siblings(stage: Stage) -> None:
    label = uuid()
    result = tasks.fails_fast.delay(label)
    run = ended(stage, result, "failed")
    assert run.error is not None
    assert (run.error.type, run.error.message) == ("ValueError", "fast")
    wait_until(
        lambda: children(stage, result) == {"slow": "cancelled", "failing": "failed"}, TIMEOUT, "the child is cancelled"
    )
    assert names(label)["clean-asleep"] <= 1


def test_cancelling_goes_all_the_way_down(stage: Stage) -> None:
    label = uuid()
    result = tasks.nested.delay(label, 3)
    runs = [result.id]
    for _ in range(3):
        wait_until(lambda: children(stage, runs[-1]), TIMEOUT, "it has called the next one")
        runs.append(child_of(stage, runs[-1]))
    wait_until(lambda: "long" in (stage.run(runs[-1]).waiting_on or ""), TIMEOUT, "the last one sleeps")

    Durable(stage.app).cancel(result.id)

    for run in runs:
        ended(stage, run, "cancelled")
    assert names(label) == {f"clean-{depth}": 1 for depth in range(4)}


def test_a_child_that_is_cancelled_fails_its_call(stage: Stage) -> None:
    label = uuid()
    result = tasks.catches.apply_async((label,), {"durably": True, "queue": "nobody"})
    wait_until(lambda: children(stage, result), TIMEOUT, "it is called")
    Durable(stage.app).cancel(child_of(stage, result))
    told = ended(stage, result).result
    assert told.startswith("CallFailed: ")
    assert "was cancelled" in told
    assert not effects(label)


def test_a_sleeping_child_that_is_cancelled_fails_its_call(stage: Stage) -> None:
    label = uuid()
    result = tasks.nested.delay(label, 1)
    wait_until(lambda: children(stage, result), TIMEOUT, "it is called")
    child = child_of(stage, result)
    wait_until(lambda: "long" in (stage.run(child).waiting_on or ""), TIMEOUT, "it sleeps")
    Durable(stage.app).cancel(child)
    run = ended(stage, result, "failed")
    assert run.error is not None
    assert run.error.type == "celery_durable.errors.CallFailed"
    assert names(label) == {"clean-0": 1, "clean-1": 1}


def test_a_revoked_child_fails_its_call(stage: Stage) -> None:
    before, label = uuid(), uuid()
    tasks.held.apply_async((before,), queue="other")
    wait_until(lambda: effects(before, "begun"), TIMEOUT, "the worker is busy")
    result = tasks.catches.apply_async((label,), {"queue": "other"})
    wait_until(lambda: children(stage, result), TIMEOUT, "it is called")
    child = child_of(stage, result)
    inspect = stage.celery.control.inspect(["special@real"], timeout=1)
    wait_until(lambda: child in (inspect.query_task(child) or {}).get("special@real", {}), TIMEOUT, "it is reserved")
    stage.celery.control.revoke(child)
    wait_until(lambda: child in (inspect.revoked() or {}).get("special@real", []), TIMEOUT, "the worker knows")

    effect(before, tasks.GO)

    told = ended(stage, result).result
    assert told.startswith("CallFailed: ")
    assert "was cancelled" in told
    assert not effects(label)


def test_cancelling_revokes_an_ordinary_child(stage: Stage) -> None:
    before, label = uuid(), uuid()
    tasks.held.apply_async((before,), queue="other")
    wait_until(lambda: effects(before, "begun"), TIMEOUT, "the worker is busy")
    result = tasks.catches.apply_async((label,), {"queue": "other"})
    wait_until(lambda: children(stage, result), TIMEOUT, "it is called")
    child = child_of(stage, result)
    inspect = stage.celery.control.inspect(["special@real"], timeout=1)
    wait_until(lambda: child in (inspect.query_task(child) or {}).get("special@real", {}), TIMEOUT, "it is reserved")

    Durable(stage.app).cancel(result.id)
    ended(stage, result, "cancelled")
    wait_until(lambda: child in (inspect.revoked() or {}).get("special@real", []), TIMEOUT, "the worker knows")
    effect(before, tasks.GO)

    marker = uuid()
    tasks.where.apply_async((marker,), queue="other")
    wait_until(lambda: effects(marker, "done"), TIMEOUT, "the worker goes on")
    assert not effects(label), "it was not executed"
    assert children(stage, result) == {"it": "cancelled"}


def test_a_timeout_cancels_the_child(stage: Stage) -> None:
    label = uuid()
    result = tasks.gives_up.delay(label)
    assert ended(stage, result).result == "StepTimeout"
    wait_until(lambda: children(stage, result) == {"it": "cancelled"}, TIMEOUT, "the child is cancelled")
    wait_until(lambda: names(label) == {"clean-asleep": 1}, TIMEOUT, "it has cleaned up")
