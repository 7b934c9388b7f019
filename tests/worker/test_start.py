"""Starting runs: recorded first, then sent; once for each id."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from celery import Celery
from kombu import Queue
from pydantic import BaseModel

from celery_durable import DurableTask, NotSerializable, PayloadTooLarge, StartConflict
from tests.worker.conftest import Desk


class Order(BaseModel):
    id: str
    paid_at: datetime


@pytest.fixture
def task(app: Celery) -> Any:
    @app.task(shared=False, base=DurableTask, name="ship")
    def ship(order: Any, urgent: bool = False) -> None: ...

    return ship


def test_a_start_is_recorded_and_sent(desk: Desk, task: Any) -> None:
    result = task.delay("o-1", urgent=True)

    run = desk.durable.get(result.id)
    assert (run.status, run.task, run.args, run.kwargs) == ("pending", "ship", ["o-1"], {"urgent": True})
    (message,) = desk.messages()
    assert message.headers["id"] == result.id
    assert message.headers["durable_pass"] == 0


def test_the_same_start_twice_is_one_run_and_one_message(desk: Desk, task: Any) -> None:
    first = task.apply_async(({"a": 1, "b": 2},), task_id="order-42")
    second = task.apply_async(({"b": 2, "a": 1},), task_id="order-42")

    assert first.id == second.id == "order-42"
    assert len(desk.messages()) == 1


@pytest.mark.parametrize("other", [("o-2",), ("o-1", True)])
def test_the_same_id_with_other_arguments_is_a_conflict(desk: Desk, task: Any, other: tuple[Any, ...]) -> None:
    task.apply_async(("o-1",), task_id="order-42")
    with pytest.raises(StartConflict, match=r"order-42.*other arguments"):
        task.apply_async(other, task_id="order-42")
    assert len(desk.messages()) == 1


def test_the_same_id_of_another_task_is_a_conflict(app: Celery, task: Any) -> None:
    @app.task(shared=False, base=DurableTask, name="bill")
    def bill(order: Any) -> None: ...

    task.apply_async(("o-1",), task_id="order-42")
    with pytest.raises(StartConflict, match="task ship"):
        bill.apply_async(("o-1",), task_id="order-42")


def test_a_start_beyond_the_horizon_sends_nothing_yet(desk: Desk, task: Any) -> None:
    result = task.apply_async(("o-1",), countdown=3600)
    assert desk.messages() == []
    row = desk.row(result.id)
    assert 3595 < (row["wake_at"] - row["created_at"]) / 1e6 <= 3600
    assert 3580 < (row["due_at"] - row["created_at"]) / 1e6 <= 3590, "the sweeper sends it at the horizon"


def test_an_eta_within_the_horizon_is_sent_with_it(desk: Desk, task: Any) -> None:
    task.apply_async(("o-1",), eta=datetime.now(timezone.utc) + timedelta(seconds=5))
    (message,) = desk.messages()
    assert message.headers["eta"] is not None


def test_few_messages_with_an_eta_are_out_at_once(desk: Desk, task: Any) -> None:
    for _ in range(150):
        task.apply_async(("o-1",), countdown=8)
    assert len(desk.messages()) == 100


def test_a_start_holds_though_the_broker_is_away(
    desk: Desk, task: Any, closed_port: str, caplog: pytest.LogCaptureFixture
) -> None:
    with desk.app.connection(closed_port, connect_timeout=1) as away:
        result = task.apply_async(("o-1",), connection=away, retry=False)
    assert desk.durable.get(result.id).status == "pending"
    assert "could not be sent" in caplog.text


def test_wrong_arguments_start_nothing(desk: Desk, task: Any) -> None:
    with pytest.raises(TypeError, match="missing 1 required"):
        task.apply_async((), task_id="run")
    assert desk.row("run") is None


@pytest.mark.parametrize(
    ("value", "where"), [({"items": [1, object()]}, r"\['items'\]\[1\]"), (lambda: None, "function")]
)
def test_unstorable_arguments_start_nothing(desk: Desk, task: Any, value: Any, where: str) -> None:
    with pytest.raises(NotSerializable, match=where):
        task.apply_async((value,), task_id="run")
    assert desk.row("run") is None


def test_too_large_arguments_start_nothing(desk: Desk, task: Any) -> None:
    desk.app.conf.durable_max_payload = "1kb"
    with pytest.raises(PayloadTooLarge, match="durable_max_payload is 1,000"):
        task.apply_async(("x" * 2000,), task_id="run")
    assert desk.row("run") is None


def test_annotated_arguments_cross_as_their_types(desk: Desk, app: Celery) -> None:
    seen = []

    @app.task(shared=False, base=DurableTask)
    def typed(order: Order, tags: set[str], due: datetime) -> None:
        seen.append((order, tags, due))

    now = datetime.now(timezone.utc)
    order = Order(id="o-1", paid_at=now)
    typed.delay(order, {"a", "b"}, now)
    (message,) = desk.messages()
    assert message.decode()[0][0]["id"] == "o-1", "the message holds plain data"

    typed.apply((order, {"a", "b"}, now)).get()
    assert seen == [(order, {"a", "b"}, now)]


def test_queue_objects_and_options_survive_in_the_record(desk: Desk, task: Any) -> None:
    task.apply_async(("o-1",), queue=Queue("special"), priority=3, headers={"tenant": "t1"}, expires=60, task_id="run")
    with desk.store.link() as link:
        assert desk.store.due(link, 1) == [], "it has been sent"
    (message,) = desk.messages("special")
    assert message.properties["priority"] == 3
    assert message.headers["tenant"] == "t1"
