"""A run ends while the result backend or the broker is away: Celery is told when they are back, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from celery import chord, uuid

from celery_durable import Durable
from tests.proxy import Proxy
from tests.real import control_tasks as tasks
from tests.real.conftest import DATABASES, build
from tests.real.effects import effects
from tests.real.stage import Stage
from tests.real.test_control import BEFORE, CONFIG, app
from tests.services import Services
from tests.waiting import wait_until

TIMEOUT = 120
SAID = "could not be told"


def behind_a_proxy(url: str) -> tuple[str, Proxy]:
    parts = urlsplit(url)
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 6379)
    user, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}")), proxy


def staged(services: Services, folder: Path, broker: str, setting: str, url: str) -> Iterator[tuple[Stage, Proxy]]:
    """A stage with a worker, where what a setting names is behind a proxy."""
    proxied, proxy = behind_a_proxy(url)
    for stage in build(services, folder, broker, DATABASES[broker], **CONFIG, **{setting: proxied}):
        try:
            stage.start_workers("one", concurrency=4)
            yield stage, proxy
        finally:
            tasks.go_everybody()
            for worker in stage._started:
                worker.kill()
            app.conf.update(BEFORE)


@pytest.fixture
def backend_away(services: Services, tmp_path: Path) -> Iterator[tuple[Stage, Proxy]]:
    yield from staged(services, tmp_path, "redis", "result_backend", services.redis.url)


@pytest.fixture(params=["redis", "rabbitmq"])
def broker_away(request: pytest.FixtureRequest, services: Services, tmp_path: Path) -> Iterator[tuple[Stage, Proxy]]:
    broker: Any = getattr(services, request.param)
    yield from staged(services, tmp_path, request.param, "broker_url", broker.url)


def ended(stage: Stage, result: Any, label: str) -> str:
    """Let it end; its status when Celery could not be told of it."""
    tasks.go(label)
    status = stage.wait_for(result, "completed", "failed", "cancelled", timeout=TIMEOUT).status
    wait_until(lambda: any(result.id in line and SAID in line for line in lines(stage)), TIMEOUT, "the worker says so")
    return status


def lines(stage: Stage) -> list[str]:
    return stage.logs().splitlines()


def wait_for(stage: Stage, condition: Callable[[], Any], message: str) -> None:
    """Wait, and do what a supervisor does meanwhile: Kombu's Redis transport ends a worker now and then whose
    connections break (an ``AttributeError``), and it is started again."""

    def found() -> Any:
        if stage._started[-1].container.status == "exited":
            stage.start_workers(f"after-{len(stage._started)}")
        return condition()

    wait_until(found, TIMEOUT, message)


def test_a_result_that_could_not_be_stored_is_not_lost(backend_away: tuple[Stage, Proxy]) -> None:
    stage, proxy = backend_away
    labels = {name: uuid() for name in ("completed", "failed", "cancelled")}
    results = {
        "completed": tasks.held.delay(labels["completed"]),
        "failed": tasks.held_and_fails.delay(labels["failed"]),
        "cancelled": tasks.parks.delay(labels["cancelled"], "step"),
    }
    for label in labels.values():
        wait_until(partial(effects, label, "begun"), TIMEOUT, "it is under way")
    Durable(stage.app).cancel(results["cancelled"].id)

    proxy.cut()
    assert {name: ended(stage, results[name], labels[name]) for name in labels} == {name: name for name in labels}
    proxy.restore()

    states = {"completed": "SUCCESS", "failed": "FAILURE", "cancelled": "REVOKED"}
    for name, result in results.items():
        wait_until(partial(stored, result), TIMEOUT, f"{name}: a result is stored")
        assert result.state == states[name]
    assert results["completed"].result == "after"
    assert isinstance(results["failed"].result, ConnectionError)
    for name, result in results.items():
        wait_until(partial(delivered, stage, result), TIMEOUT, f"{name}: it is marked as delivered")


def stored(result: Any) -> bool:
    return result.state in ("SUCCESS", "FAILURE", "REVOKED")


def delivered(stage: Stage, result: Any) -> bool:
    run = stage.store.tables.run
    statement = run.select().where(run.c.id == result.id).with_only_columns(run.c.delivered_at, run.c.due_at)
    with stage.store.link() as link:
        row = link.run(lambda connection: connection.execute(statement).one())
    return row.delivered_at is not None and row.due_at is None


def test_a_callback_that_could_not_be_sent_makes_no_failure_of_a_run(broker_away: tuple[Stage, Proxy]) -> None:
    stage, proxy = broker_away
    label = uuid()
    errback = tasks.note_error.s(label)
    result = tasks.held.apply_async((label,), link=tasks.note.s(label), link_error=errback)
    wait_until(lambda: effects(label, "begun"), TIMEOUT, "it is under way")

    proxy.cut()
    assert ended(stage, result, label) == "completed"
    proxy.restore()

    wait_for(stage, lambda: effects(label, "callback"), "its callback is executed")
    wait_for(stage, partial(stored, result), "its result is stored")
    assert result.state == "SUCCESS"
    assert not effects(label, "errback")


def test_an_ordinary_task_that_ends_while_the_broker_is_away_has_not_failed(broker_away: tuple[Stage, Proxy]) -> None:
    """Celery makes a failure of a task whose callback it can't send: that is how the caller's answer would come."""
    stage, proxy = broker_away
    label = uuid()
    result = tasks.calls_held.delay(label)
    wait_until(lambda: effects(label, "begun"), TIMEOUT, "it is under way")

    proxy.cut()
    tasks.go(label)
    answered = partial(answer, stage, result)
    wait_until(lambda: answered() is not None, TIMEOUT, "its caller has the answer")
    proxy.restore()

    assert answered() == "completed"
    wait_for(stage, lambda: stage.run(result).status == "completed", "its caller has completed")
    assert stage.run(result).result == ["ended", label]
    assert len(effects(label, "begun")) == 1


def answer(stage: Stage, result: Any) -> str | None:
    found = {step.id: step.status for step in Durable(stage.app).get(result.id).steps}["held"]
    return None if found == "waiting" else found


def test_a_chord_waits_for_the_database_that_is_to_record_the_start_of_its_body(
    backend_away: tuple[Stage, Proxy],
) -> None:
    """Seen in a storm: Celery called the chord failed, and its body was never started."""
    labels, body = [uuid(), uuid()], uuid()
    result = chord([tasks.held.s(label) for label in labels], tasks.summed.s(body)).apply_async()
    for label in labels:
        tasks.go(label)
    assert result.get(timeout=TIMEOUT) == ["after", "after"]
    assert len(effects(body, "refused")) == 3
    assert len(effects(body, "body")) == 1


@pytest.mark.parametrize("how", ["chord", "chain", "callback"])
def test_what_comes_after_ordinary_tasks_while_the_database_is_away(
    backend_away: tuple[Stage, Proxy], how: str
) -> None:
    """Celery called the chord failed, or the task, and forgot what was to come."""
    stage, _ = backend_away
    part, body = uuid(), uuid()
    last = tasks.summed.s(body)
    if how == "chord":
        result = chord([tasks.note.s(number, part) for number in (1, 2)], last).apply_async()
    else:
        first, last.options["task_id"] = tasks.note.s([1, 2], part), uuid()
        (first | last).apply_async() if how == "chain" else first.apply_async(link=last)
        result = app.AsyncResult(last.options["task_id"])

    assert result.get(timeout=TIMEOUT) == [1, 2]

    assert len(effects(body, "refused")) == 2
    assert len(effects(body, "body")) == 1
    assert Durable(stage.app).get(result.id).status == "completed"
    assert "Its message is sent all the same" in stage.logs()


def test_a_callback_that_could_not_be_recorded_makes_no_failure_of_a_run(backend_away: tuple[Stage, Proxy]) -> None:
    """Celery has put its request away by the time that it calls the task failed."""
    label = uuid()
    result = tasks.held.apply_async((label,), link=tasks.note_durably.s(label))
    tasks.go(label)
    wait_until(partial(effects, label, "callback"), TIMEOUT, "its callback is executed")
    wait_until(partial(stored, result), TIMEOUT, "its result is stored")
    assert result.state == "SUCCESS"
    assert len(effects(label, "unrecorded")) == 1
