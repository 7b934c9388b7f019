"""The sweeper: what it sends, when it waits, and that one bad run stops no other."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from celery_durable import DurableTask
from celery_durable.core.duration import SECOND
from celery_durable.store.records import Claim, NewRun, StepWrite
from celery_durable.worker.message import keep, queue_of
from celery_durable.worker.sweeper import Sweeper
from tests.waiting import wait_until
from tests.worker.conftest import Desk


@pytest.fixture
def task(app: Celery) -> Any:
    @app.task(shared=False, base=DurableTask, name="ship")
    def ship(order: str = "") -> None: ...

    return ship


def make_due(desk: Desk, run_id: str) -> None:
    run = desk.store.tables.run
    with desk.store.link() as link:
        link.run(lambda connection: connection.execute(run.update().where(run.c.id == run_id).values(due_at=1)))


def claim(desk: Desk, run_id: str, lease: int = 60 * SECOND) -> Claim:
    with desk.store.link() as link:
        claimed = desk.store.claim(link, run_id, worker="test", lease=lease)
    assert isinstance(claimed, Claim), claimed
    return claimed


def test_a_lost_start_is_sent_again(desk: Desk, task: Any) -> None:
    task.apply_async(("o-1",), task_id="run", priority=3, headers={"tenant": "t1"})
    desk.messages()
    make_due(desk, "run")

    desk.tick()

    (message,) = desk.messages()
    assert message.headers["id"] == "run"
    assert message.headers["tenant"] == "t1"
    assert message.properties["priority"] == 3
    assert message.decode()[0] == ["o-1"]
    assert desk.row("run")["sends"] == 2


def test_a_message_in_a_backlog_is_not_sent_again(desk: Desk, task: Any) -> None:
    task.apply_async(("o-1",), task_id="run")
    make_due(desk, "run")

    desk.tick()

    assert len(desk.messages()) == 1, "the first message still waits in the queue"
    assert desk.row("run")["due_at"] > 1, "but it is looked at again"


def test_looks_at_a_backlog_do_not_put_a_lost_message_off_for_minutes(desk: Desk, task: Any) -> None:
    """The broker is busy for a while, then it loses everything, and then the message that is sent again."""
    task.apply_async(("o-1",), task_id="run")
    for _ in range(6):
        make_due(desk, "run")
        desk.tick()
    assert len(desk.messages()) == 1, "and here it is lost"
    make_due(desk, "run")
    desk.tick()
    assert len(desk.messages()) == 1, "and here the second one"

    assert desk.row("run")["due_at"] <= time.time_ns() // 1000 + 60 * SECOND


def test_a_run_whose_worker_died_is_freed_and_sent(desk: Desk, task: Any) -> None:
    task.apply_async(("o-1",), task_id="run")
    desk.messages()
    claim(desk, "run", lease=1)

    wait_until(lambda: (desk.tick(), desk.messages())[1], 5, "the run is sent again")

    run = desk.durable.get("run")
    assert (run.status, run.recoveries) == ("suspended", 1)


def test_a_run_that_kills_its_workers_is_paused_with_the_reason(desk: Desk, task: Any) -> None:
    desk.app.conf.durable_max_recoveries = 2
    task.apply_async(("o-1",), task_id="run")
    for _ in range(2):
        claim(desk, "run", lease=1)
        wait_until(lambda: (desk.tick(), desk.row("run")["status"] != "running")[1], 5, "the run is freed")

    run = desk.durable.get("run")
    assert run.status == "paused"
    assert run.waiting_on is not None
    assert "2 workers died" in run.waiting_on
    result = task.AsyncResult("run")
    assert (result.state, result.info["waiting_on"]) == ("STARTED", run.waiting_on)

    desk.durable.resume("run")
    assert desk.durable.get("run").status == "suspended"


def test_progress_forgives_dead_workers(desk: Desk, task: Any) -> None:
    desk.app.conf.durable_max_recoveries = 2
    task.apply_async(("o-1",), task_id="run")
    for index in range(4):
        claimed = claim(desk, "run", lease=SECOND // 5)
        with desk.store.link() as link:
            made = StepWrite(f"step-{index}", index, "run", "completed", result="1")
            assert desk.store.record(link, claimed.fence, made, claimed.now + SECOND // 5)
        wait_until(lambda: (desk.tick(), desk.row("run")["status"] != "running")[1], 5, "the run is freed")
    assert desk.durable.get("run").status == "suspended"


def test_a_result_that_was_not_delivered_is_sent_for_delivery(desk: Desk, task: Any) -> None:
    task.apply_async(("o-1",), task_id="run")
    desk.messages()
    claimed = claim(desk, "run")
    with desk.store.link() as link:
        desk.store.finish(link, claimed.fence, status="completed", now=claimed.now, lease=1, result="1")

    desk.tick()

    assert len(desk.messages()) == 1
    with desk.store.link() as link:
        delivery = desk.store.claim(link, "run", worker="other", lease=60 * SECOND)
        again = desk.store.claim(link, "run", worker="third", lease=60 * SECOND)
    assert getattr(delivery, "result", None) == "1"
    assert getattr(again, "status", None) == "completed", "one worker delivers"
    assert not hasattr(again, "result")


def test_a_run_of_a_task_that_is_not_here_is_sent_by_name(desk: Desk) -> None:
    @desk.app.task(shared=False, base=DurableTask, name="helper")
    def helper() -> None: ...

    with desk.store.link() as link:
        desk.store.start(
            link, NewRun("run", "elsewhere.task", '[["a"],{}]', "h", keep(helper.app, helper, {}), due_in=-1)
        )
    desk.tick()
    (message,) = desk.messages()
    assert message.headers["task"] == "elsewhere.task"


def test_one_broken_record_stops_no_other(desk: Desk, task: Any) -> None:
    task.apply_async(("o-1",), task_id="good")
    desk.messages()
    with desk.store.link() as link:
        desk.store.start(link, NewRun("bad", "ship", "[[],{}]", "h", "{not json", due_in=-1))
    make_due(desk, "good")

    desk.tick()

    assert [message.headers["id"] for message in desk.messages()] == ["good"]


def test_a_sweeper_of_another_app_sends_a_run_to_the_queue_of_its_own(desk: Desk, task: Any) -> None:
    """Two apps in one database: neither has the other's tasks, nor its default queue."""
    task.apply_async(("o-1",), task_id="run")
    desk.messages()
    make_due(desk, "run")
    other = Celery("other", broker="memory://", backend="cache+memory://", set_as_current=False)
    url = desk.app.conf.durable_database_url
    other.conf.update(durable_database_url=url, task_default_queue=f"other-{uuid.uuid4().hex[:8]}")

    Desk(other).tick()

    assert [message.headers["id"] for message in desk.messages()] == ["run"]
    assert not Desk(other).messages()
    other.close()


def test_one_sweeper_leads_and_another_takes_over(desk: Desk, task: Any) -> None:
    first, second = Sweeper(desk.app), Sweeper(desk.app)
    with desk.store.link() as link:
        assert first._leads(link)
        assert not second._leads(link)
    first.stop()
    second._ask_at = 0
    with desk.store.link() as link:
        assert second._leads(link)


def test_a_broker_that_is_away_leaves_the_runs_due(desk: Desk, task: Any, closed_port: str) -> None:
    task.apply_async(("o-1",), task_id="run")
    desk.messages()
    make_due(desk, "run")
    other = Celery("away", broker=closed_port, set_as_current=False)
    other.conf.update(
        durable_database_url=desk.app.conf.durable_database_url,
        task_publish_retry=False,
        broker_connection_timeout=1,
    )
    sweeper = Sweeper(other)
    with desk.store.link() as link, pytest.raises(OperationalError):
        sweeper.tick(link)
    sweeper.stop()
    assert desk.row("run")["due_at"] == 1
    desk.tick()
    assert len(desk.messages()) == 1


def test_a_backlog_elsewhere_says_nothing_of_an_exchange(app: Celery, desk: Desk, task: Any) -> None:
    """A run that was sent to an exchange: the default queue is not its queue, however full it is."""
    task.apply_async(("o-1",), task_id="run", exchange="orders", routing_key="order.a")
    kept = desk.store.tables.input
    with desk.store.engine.connect() as connection:
        message = connection.execute(kept.select()).one().message
    assert queue_of(app, "ship", message) is None
