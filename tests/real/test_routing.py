"""The way that a run's messages go: each of them as the first one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from celery import Celery, chain, chord, current_app, group, uuid
from celery.exceptions import ChordError, TaskRevokedError
from kombu import Exchange, Producer, Queue

from celery_durable import DurableTask, step
from celery_durable.worker.message import send
from tests.real.app import app
from tests.real.conftest import DATABASES, build
from tests.real.routing_tasks import (
    add,
    carried,
    carried_by_class,
    carried_by_route,
    hooked,
    mark,
    messages,
    names,
    note_error,
    note_total,
    slow_at_last,
    total,
)
from tests.real.stage import Stage
from tests.services import Services
from tests.waiting import wait_until

TIMEOUT = 20

MAIL = Exchange("mail", type="topic")
POST = Exchange("post", type="topic")
"""This one is named without its queue only: one that published to a queue has declared its exchange, too."""
CONFIG: dict[str, Any] = {
    "task_queues": {
        "celery": {"exchange": "celery", "routing_key": "celery"},
        "other": {"exchange": "other", "routing_key": "other"},
        "letters": {"exchange": "mail", "exchange_type": "topic", "routing_key": "letter.#"},
        "parcels": {"exchange": "post", "exchange_type": "topic", "routing_key": "parcel.#"},
    },
    "task_routes": {carried_by_route.name: {"queue": "other", "priority": 4}},
}


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def stage(request: pytest.FixtureRequest, services: Services, tmp_path_factory: Any) -> Iterator[Stage]:
    """Two workers, each with queues of its own."""
    before = {name: app.conf[name] for name in CONFIG}
    app.__dict__.pop("amqp", None)  # it has the queues and routes of the modules before
    for stage in build(services, tmp_path_factory.mktemp("stage"), request.param, DATABASES[request.param], **CONFIG):
        stage.start_workers("plain", options=("-Q", "celery"))
        stage.start_workers("special", options=("-Q", "other,letters,parcels"))
        yield stage
    app.conf.update(before)
    app.__dict__.pop("amqp", None)


def workers(run: str) -> list[str]:
    return [said["worker"] for said in messages(run)]


def test_a_queue(stage: Stage) -> None:
    result, default = carried.apply_async((1,), queue="other"), carried.delay(1)
    given_as_object = carried.apply_async((1,), queue=Queue("other", Exchange("other"), routing_key="other"))
    assert [one.get(timeout=TIMEOUT) for one in (result, default, given_as_object)] == [2, 2, 2]
    assert workers(result.id) == workers(given_as_object.id) == ["special@real"] * 3
    assert workers(default.id) == ["plain@real"] * 3


def test_a_priority_and_headers(stage: Stage) -> None:
    result = carried.apply_async((1,), queue="other", priority=3, headers={"colour": "blue"})
    assert result.get(timeout=TIMEOUT) == 2
    said = messages(result.id)
    assert [one["colour"] for one in said] == ["blue"] * 3
    assert [one["delivery"]["priority"] for one in said] == [3] * 3
    assert workers(result.id) == ["special@real"] * 3


def test_a_route_of_the_configuration(stage: Stage) -> None:
    result = carried_by_route.delay()
    result.get(timeout=TIMEOUT)
    assert workers(result.id) == ["special@real"] * 3
    assert [one["delivery"]["priority"] for one in messages(result.id)] == [4] * 3


def test_a_pattern_of_a_topic_exchange_by_its_queue(stage: Stage) -> None:
    result = carried.apply_async((1,), queue="letters", routing_key="letter.a")
    assert result.get(timeout=TIMEOUT) == 2
    assert workers(result.id) == ["special@real"] * 3


@pytest.fixture
def post(stage: Stage) -> Iterator[Producer]:
    """A producer that has declared the exchange: kombu takes others, over Redis, for direct ones."""
    with stage.celery.connection_for_write() as connection:
        POST(connection.default_channel).declare()
        yield Producer(connection)


def is_redis(stage: Stage) -> bool:
    return str(stage.config_of_workers["broker_url"]).startswith("redis")


@pytest.mark.parametrize("exchange", [POST, "post"], ids=["object", "name"])
def test_a_pattern_of_a_topic_exchange(stage: Stage, post: Producer, exchange: Any) -> None:
    plain = add.apply_async((1, 1), exchange=exchange, routing_key="parcel.a", producer=post)
    assert plain.get(timeout=TIMEOUT) == 2  # that is so without this package
    result = carried.apply_async((1,), exchange=exchange, routing_key="parcel.a", producer=post)
    wait_until(lambda: messages(result.id), TIMEOUT, "the first message arrives")
    assert result.get(timeout=TIMEOUT) == 2
    assert workers(result.id) == ["special@real"] * 3


def test_an_exchange_that_the_caller_has_declared(stage: Stage) -> None:
    plain = add.apply_async((1, 1), exchange=POST, routing_key="parcel.a", declare=[POST])
    assert plain.get(timeout=TIMEOUT) == 2  # that is so without this package
    result = carried.apply_async((1,), exchange=POST, routing_key="parcel.a", declare=[POST])
    assert result.get(timeout=TIMEOUT) == 2
    assert workers(result.id) == ["special@real"] * 3


def test_a_queue_of_the_task(stage: Stage) -> None:
    result = carried_by_class.delay()
    result.get(timeout=TIMEOUT)
    assert workers(result.id) == ["special@real"] * 3
    assert [said["delivery"]["priority"] for said in messages(result.id)] == [2] * 3


def test_a_queue_of_a_task_that_the_sender_does_not_know(stage: Stage) -> None:
    """The worker that sweeps may be one of another app, which has no more than what is kept."""
    result = carried_by_class.apply_async(producer=object())  # it can't be sent, and is recorded
    statement = stage.store.statements.inputs
    with stage.store.link() as link:
        given = link.run(lambda connection: connection.execute(statement, {"ids": [result.id]}).one())
    stranger = Celery("stranger", broker=stage.config_of_workers["broker_url"], set_as_current=False)
    with stranger:
        send(stranger, carried_by_class.name, result.id, arguments=given.arguments, kept=given.message, passes=0)
    result.get(timeout=TIMEOUT)
    assert workers(result.id) == ["special@real"] * 3


def test_signals_and_hooks_of_a_success(stage: Stage) -> None:
    result = hooked.delay()
    assert result.get(timeout=TIMEOUT) == "done"
    wait_until(lambda: "task_postrun:SUCCESS" in names(result.id), TIMEOUT, "the last signal comes")
    a_pass = ["task_prerun", "before_start", "task_postrun:IGNORED"]
    last = ["task_prerun", "before_start", "task_success", "on_success", "after_return:SUCCESS", "task_postrun:SUCCESS"]
    assert Counter(names(result.id)) == Counter([*a_pass, *a_pass, *last])


def test_signals_and_hooks_of_a_failure(stage: Stage) -> None:
    result = hooked.delay(fail=True)
    with pytest.raises(ValueError, match="failed"):
        result.get(timeout=TIMEOUT)
    wait_until(lambda: "task_postrun:FAILURE" in names(result.id), TIMEOUT, "the last signal comes")
    a_pass = ["task_prerun", "before_start", "task_postrun:IGNORED"]
    last = ["task_prerun", "before_start", "task_failure", "on_failure", "after_return:FAILURE", "task_postrun:FAILURE"]
    assert Counter(names(result.id)) == Counter([*a_pass, *a_pass, *last])


def test_a_chain_in_a_chord_in_a_chain(stage: Stage) -> None:
    inner = chord([chain(add.s(1), carried.s()), carried.s()], chain(total.s(), carried.s()))
    result = chain(carried.s(1), inner, carried.s()).apply_async()
    assert result.get(timeout=TIMEOUT) == (2 + 1 + 1) + (2 + 1) + 1 + 1


def test_three_levels(stage: Stage) -> None:
    grouped = chain(carried.s(1), group(carried.s(), chain(carried.s(), carried.s())), total.s())
    in_chord = chord([carried.s(1), carried.s(2)], carried.si(3))
    result = chord([grouped, in_chord, group(carried.s(10), carried.s(20))], total.s()).apply_async()
    assert result.get(timeout=TIMEOUT) == (3 + 4) + 4 + (11 + 21)


def delivered(stage: Stage, *runs: str) -> None:
    """Wait until all that follows from the ends of these runs has happened."""
    wait_until(lambda: all(stage.run(run).delivered_at for run in runs), TIMEOUT, "the ends are delivered")
    for _ in range(4):  # what the ends have sent to the default queue has begun, too
        add.delay(1, 1).get(timeout=TIMEOUT)


def test_a_failing_member_of_a_chord(stage: Stage) -> None:
    run, members = uuid(), [uuid(), uuid(), uuid()]
    header = [carried.s(1, fail=number == 1).set(task_id=member) for number, member in enumerate(members)]
    result = chord(header, note_total.s(run).on_error(note_error.s(run))).apply_async()
    assert isinstance(result.get(timeout=TIMEOUT, propagate=False), ChordError)
    assert result.state == "FAILURE"
    delivered(stage, *members)
    assert names(run) == ["errback"]
    assert [stage.run(member).status for member in members] == ["completed", "failed", "completed"]


def test_error_callbacks_of_a_group(stage: Stage) -> None:
    run = uuid()
    members = group(carried.s(1), carried.s(2, fail=True), carried.s(3, fail=True))
    members.link_error(mark.si(run, "errback"))
    result = members.apply_async()
    for one in result.results:
        stage.wait_for(one, "completed", "failed")
    delivered(stage, *(one.id for one in result.results))
    assert names(run) == ["errback"] * 2
    assert [one.state for one in result.results] == ["SUCCESS", "FAILURE", "FAILURE"]


def test_time_limits_are_for_each_pass(stage: Stage) -> None:
    """All at once: those that sleep longer than the limit, and those whose last pass takes too long."""
    fine = [slow_at_last.apply_async((1.1, 0), **{kind: 2}) for kind in ("soft_time_limit", "time_limit")]
    soft = slow_at_last.apply_async((0.2, 30), soft_time_limit=2)
    hard = slow_at_last.apply_async((0.2, 30), time_limit=2)
    with pytest.raises(SoftTimeLimitExceeded):
        soft.get(timeout=TIMEOUT)
    with pytest.raises(TimeLimitExceeded):
        hard.get(timeout=TIMEOUT)
    assert [one.get(timeout=TIMEOUT) for one in fine] == ["done", "done"]
    for result, limits in zip([*fine, soft, hard], [[None, 2], [2, None]] * 2, strict=True):
        assert [said["timelimit"] for said in messages(result.id)] == [limits] * 3
    for result in (soft, hard):
        stage.wait_for(result, "failed")


def test_an_expiry_is_not_for_later_passes(stage: Stage) -> None:
    result = carried.apply_async((1, 1.1), expires=2)
    assert result.get(timeout=TIMEOUT) == 2
    first, *later = [said["expires"] for said in messages(result.id)]
    assert first is not None
    assert later == [None, None]


def test_a_message_that_expires_in_its_queue(stage: Stage) -> None:
    """RabbitMQ drops the message itself: it takes until the next one, which finds a worker, that the run ends."""
    queue = f"late-{time.time()}"
    result = carried.apply_async((1,), queue=queue, expires=1)
    sent = time.time()
    wait_until(lambda: time.time() > sent + 1.1, 5, "the time has passed")
    assert stage.run(result).status == "pending"
    stage.start_workers("late", options=("-Q", queue))
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=60)
    assert result.state == "REVOKED"
    assert stage.wait_for(result, "cancelled").passes == 0
    assert messages(result.id) == []


@pytest.fixture
def eager(tmp_path: Path) -> Iterator[Celery]:
    """An app of its own, whose tasks are executed by the caller."""
    current = current_app._get_current_object()
    eager = Celery("eager", broker="memory://", backend="cache+memory://", set_as_current=False)
    eager.conf.update(
        task_always_eager=True,
        durable_database_url=f"sqlite:///{tmp_path / 'eager.db'}",
        durable_auto_migrate=True,
    )
    yield eager
    current.set_current()


def test_eager_canvas(eager: Celery) -> None:
    passes = []

    @eager.task(base=DurableTask, bind=True)
    def one(self: Any, value: int, fail: bool = False) -> int:
        passes.append(self.request.id)
        step.sleep("first", 3600)
        step.sleep("second", 3600)
        if fail:
            raise ValueError(f"failed with {value}")
        return value + 1

    @eager.task
    def summed(values: list[int]) -> int:
        return sum(values)

    assert chain(one.s(1), one.s(), one.s()).apply_async().get() == 4
    assert len(passes) == 9
    assert Counter(passes).most_common()[-1][1] == 3
    assert group(one.s(1), one.s(2)).apply_async().get() == [2, 3]
    assert chord([one.s(1), one.s(2)], summed.s()).apply_async().get() == 5
    assert chord([chain(one.s(1), one.s()), one.s(2)], chain(summed.s(), one.s())).apply_async().get() == 7
    passes.clear()
    with pytest.raises(ValueError, match="failed with 1"):  # as a chain of plain tasks does, too
        chain(one.s(1, fail=True), one.s()).apply_async()
    assert len(passes) == 3
