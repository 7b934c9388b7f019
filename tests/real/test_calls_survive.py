"""What kills workers or loses messages while a run waits for what it has called: it gets its answer all the same."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from amqp.exceptions import ChannelError
from celery import uuid

from celery_durable import Run
from tests.real import call_tasks as tasks
from tests.real.app import app
from tests.real.conftest import DATABASES, build
from tests.real.effects import effect, effects
from tests.real.stage import Stage, Worker
from tests.services import Services
from tests.waiting import wait_until

TIMEOUT = 30
AFTER_GRACE = 60
"""A message that was sent has 15 seconds before the sweeper asks whether it was lost."""

CONFIG: dict[str, Any] = {"imports": ["tests.real.call_tasks"], "worker_enable_remote_control": True}


@pytest.fixture(params=["redis", "rabbitmq"])
def stage(request: pytest.FixtureRequest, services: Services, tmp_path: Path) -> Iterator[Stage]:
    before = {name: app.conf[name] for name in CONFIG}
    yield from build(services, tmp_path, request.param, DATABASES[request.param], **CONFIG)
    app.conf.update(before)


def start(stage: Stage, name: str, queue: str = "celery", concurrency: int = 2, pool: str = "prefork") -> Worker:
    (worker,) = stage.start_workers(name, concurrency=concurrency, pool=pool, options=("-Q", queue))
    return worker


def lose(stage: Stage, queue: str) -> int:
    """The broker forgets what waits in a queue; how much that was."""
    with stage.celery.connection_for_write() as connection:
        return int(connection.default_channel.queue_purge(queue) or 0)


def waiting_in(stage: Stage, queue: str) -> int:
    try:
        with stage.celery.connection_for_read() as connection:
            return int(connection.default_channel.queue_declare(queue, passive=True).message_count)
    except ChannelError:  # over Redis an empty queue is none
        return 0


def make_queue(stage: Stage, name: str) -> None:
    """RabbitMQ drops what is sent to a queue that nobody has declared."""
    with stage.celery.connection_for_write() as connection:
        stage.celery.amqp.queues[name](connection.default_channel).declare()


def done(stage: Stage, result: Any, timeout: float = TIMEOUT) -> Run:
    run = stage.wait_for(result, "completed", "failed", "cancelled", "paused", timeout=timeout)
    assert run.status == "completed", (run.status, run.error, run.waiting_on)
    return run


def count(label: str, name: str) -> int:
    return len(effects(label, name))


def begun(*labels: str) -> bool:
    return all(count(label, "begun") for label in labels)


def test_a_pool_child_is_killed_that_executes_a_durable_child(stage: Stage) -> None:
    start(stage, "one")
    label = uuid()
    result = tasks.catches.delay(label, durably=True)
    (first,) = wait_until(lambda: effects(label, "begun"), TIMEOUT, "the child is under way")
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: count(label, "begun") == 2, TIMEOUT, "it is executed again")
    effect(label, tasks.GO)
    assert done(stage, result).result == f"value: {label}"
    assert count(label, "ended") == 1


def test_a_pool_child_is_killed_that_executes_an_ordinary_child(stage: Stage) -> None:
    """Celery gives a task up whose process dies, and the caller is told."""
    start(stage, "one")
    label = uuid()
    result = tasks.catches.delay(label)
    (first,) = wait_until(lambda: effects(label, "begun"), TIMEOUT, "the child is under way")
    os.kill(first.pid, signal.SIGKILL)
    assert done(stage, result).result.startswith("WorkerLostError: ")
    assert count(label, "begun") == 1


def test_a_worker_is_killed_between_parking_and_sending(stage: Stage) -> None:
    start(stage, "one")
    label = uuid()
    result = tasks.dies_before_sending.delay(label)
    wait_until(lambda: count(label, "died"), TIMEOUT, "it is killed")
    children = [f"{label}-d", f"{label}-o"]
    wait_until(lambda: begun(*children), AFTER_GRACE, "what it calls was sent by the sweeper")
    for child in children:
        effect(child, tasks.GO)
    assert done(stage, result).result == children
    assert [count(child, "begun") for child in children] == [1, 1]
    assert count(label, "died") == 1


def test_the_worker_of_the_caller_is_killed_while_children_are_at_work(stage: Stage) -> None:
    one = start(stage, "one")
    start(stage, "two", queue="other")
    label = uuid()
    result = tasks.calls_on.delay("other", label, 1, 1)
    children = [f"{label}-d0", f"{label}-o0"]
    wait_until(lambda: begun(*children), TIMEOUT, "the children are at work")
    one.kill()
    for child in children:
        effect(child, tasks.GO)
    wait_until(lambda: all(count(child, "ended") for child in children), TIMEOUT, "the children have ended")
    start(stage, "three")
    assert done(stage, result, AFTER_GRACE).result == children
    assert [count(child, "begun") for child in children] == [1, 1]


@pytest.mark.slow
def test_the_messages_of_what_is_called_are_lost(stage: Stage) -> None:
    start(stage, "one")
    make_queue(stage, "other")
    label = uuid()
    result = tasks.calls_on.delay("other", label, 2, 2)
    wait_until(lambda: waiting_in(stage, "other") == 4, TIMEOUT, "the children are queued")
    assert lose(stage, "other") == 4
    start(stage, "two", queue="other", concurrency=4)
    children = [f"{label}-{child}" for child in ("d0", "d1", "o0", "o1")]
    wait_until(lambda: begun(*children), AFTER_GRACE, "they are sent again")
    for child in children:
        effect(child, tasks.GO)
    assert done(stage, result).result == children
    assert [count(child, "begun") for child in children] == [1] * 4


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["solo"])
def test_a_long_task_is_not_sent_again(stage: Stage, pool: str) -> None:
    """It takes longer than a message has before the sweeper asks. A worker with the solo pool does not answer then."""
    start(stage, "one")
    start(stage, "two", queue="other", pool=pool)
    label = uuid()
    began = time.monotonic()
    result = tasks.calls_long.delay(label, 20, "other")
    assert done(stage, result, AFTER_GRACE).result == label
    assert time.monotonic() - began >= 20
    assert "it was sent again" not in stage.logs()
    assert [count(label, "begun"), count(label, "ended")] == [1, 1]


@pytest.mark.slow
def test_a_report_is_lost_and_the_result_backend_has_the_end(stage: Stage) -> None:
    one = start(stage, "one")
    start(stage, "two", queue="other")
    label = uuid()
    child = f"{label}-o0"
    result = tasks.calls_on.delay("other", label, 0, 1)
    wait_until(lambda: begun(child), TIMEOUT, "the child is at work")
    stage.wait_for(result, "suspended")
    one.stop()

    effect(child, tasks.GO)
    wait_until(lambda: waiting_in(stage, "celery"), TIMEOUT, "its report is queued")
    assert lose(stage, "celery") == 1
    start(stage, "three")

    assert done(stage, result, AFTER_GRACE).result == [child]
    assert count(child, "begun") == 1
