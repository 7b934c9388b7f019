"""Many runs that are due at once: few of them are messages, all keep their turn, and nobody waits behind them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import Celery, signals
from sqlalchemy import Connection

from celery_durable import DurableTask
from celery_durable.core.duration import SECOND
from celery_durable.engine.passing import GRACE
from celery_durable.store.records import Changes, Claim, NewRun, NewWait, StepWrite
from celery_durable.worker import backlog, dispatch, sending, sweeper
from celery_durable.worker.backlog import Backlog
from celery_durable.worker.message import keep
from celery_durable.worker.sweeper import Sweeper
from celery_durable.worker.window import Window
from tests.worker.conftest import Desk

ROOM = 10


@pytest.fixture
def task(app: Celery) -> Any:
    @app.task(shared=False, base=DurableTask, name="ship")
    def ship() -> None: ...

    return ship


@pytest.fixture
def sweeping(desk: Desk, task: Any) -> Sweeper:
    made = Sweeper(desk.app)
    made._window = Window(desk.store, ROOM)
    return made


def flood(desk: Desk, *names: str, queue: str | None = None) -> None:
    """Runs that are due and were never sent, the first of them for the longest; those of another queue not so long."""
    message = keep(desk.app, desk.app.tasks["ship"], {} if queue is None else {"queue": queue})
    run = desk.store.tables.run

    def make(connection: Connection) -> None:
        with link.atomic(connection):
            for place, name in enumerate(names):
                due_in = place - 3_600 * SECOND if queue is None else -1
                desk.store.start_within(
                    connection.execute, NewRun(name, "ship", "[[],{}]", "h", message, due_in=due_in)
                )
            connection.execute(run.update().where(run.c.id.in_(names)).values(sends=0))

    with desk.store.link() as link:
        link.run(make)


def unsent(desk: Desk) -> list[str]:
    run = desk.store.tables.run
    query = run.select().with_only_columns(run.c.id).where(run.c.due_at < 2 * SECOND + now(desk)).order_by(run.c.due_at)
    with desk.store.link() as link:
        return list(link.run(lambda connection: connection.execute(query).scalars()))


def now(desk: Desk) -> int:
    with desk.store.link() as link:
        return desk.store.now(link)


def tick(desk: Desk, sweeping: Sweeper) -> int:
    with desk.store.link() as link:
        return sweeping.tick(link)


def park(desk: Desk, name: str) -> None:
    """Let a run wait for the event "news"."""
    with desk.store.link() as link:
        claim = desk.store.claim(link, name, worker="w", lease=60 * SECOND)
        assert isinstance(claim, Claim)
        wait = StepWrite("news", 0, "wait", "waiting", input_hash="h", attempts=1)
        changes = Changes(steps=(wait,), waits=(("news", NewWait("news", None, None, claim.created_at)),))
        desk.store.suspend(
            link, claim.fence, changes=changes, watched=["news"], wake_at=None, due_at=None, waiting_on="news"
        )


def sent(desk: Desk, queue: str | None = None) -> list[str]:
    """The runs that the messages in a queue are for. They are taken out of it."""
    return [message.headers["id"] for message in desk.messages(queue)]


def names(count: int) -> list[str]:
    return [f"run-{number:03}" for number in range(count)]


def test_as_many_are_sent_as_the_queue_has_room_for_the_longest_due_first(desk: Desk, sweeping: Sweeper) -> None:
    flood(desk, *names(35))

    tick(desk, sweeping)
    tick(desk, sweeping)

    assert unsent(desk) == names(35)[ROOM:]
    assert sent(desk) == names(35)[:ROOM]


def test_runs_that_are_left_are_not_written(desk: Desk, sweeping: Sweeper) -> None:
    flood(desk, *names(35))
    before = desk.row("run-020")

    tick(desk, sweeping)

    assert desk.row("run-020") == before


def test_as_many_follow_as_were_taken(desk: Desk, sweeping: Sweeper) -> None:
    flood(desk, *names(35))
    tick(desk, sweeping)
    with desk.store.link() as link:
        for name in names(4):
            desk.store.claim(link, name, worker="w", lease=60 * SECOND)

    tick(desk, sweeping)

    assert sent(desk) == names(35)[: ROOM + 4]


def test_messages_that_were_lost_do_not_take_up_room(desk: Desk, sweeping: Sweeper) -> None:
    flood(desk, *names(35))
    tick(desk, sweeping)
    assert len(sent(desk)) == ROOM, "and nobody will ever take them"

    tick(desk, sweeping)

    assert sent(desk) == names(35)[ROOM : 2 * ROOM]


def test_one_look_at_the_queue_lets_no_more_through_than_it_has_room_for(desk: Desk, sweeping: Sweeper) -> None:
    """Else a queue that is emptied as fast as it is filled would keep the sweeper from all its other work."""
    flood(desk, *names(35))
    tick(desk, sweeping)
    sent(desk)

    tick(desk, sweeping)

    assert len(unsent(desk)) == 35 - 2 * ROOM


def test_a_run_of_another_queue_is_reached_behind_a_flood(
    desk: Desk, sweeping: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "_BATCH", 5)
    desk.messages("quick")  # declares it
    flood(desk, *names(100))
    flood(desk, "quick-run", queue="quick")

    looks = [tick(desk, sweeping) for _ in range(6)]

    assert sent(desk, "quick") == ["quick-run"]
    assert max(looks) <= 5 * sweeper._PASSED_OVER + ROOM, "and no tick looks at all of it"
    assert len(sent(desk)) == ROOM


def test_the_more_wait_in_a_queue_the_later_they_are_asked_for_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them was asked for, and written, every 15 seconds: the more waited, the slower they were taken."""
    monkeypatch.setattr(backlog, "_AT_ONCE", 10)
    name, patience = desk.app.conf.task_default_queue, {}
    with desk.app.connection_for_write() as connection, connection.SimpleQueue(name) as queue:
        for waiting in (5, 15, 45, 400):
            while queue.qsize() < waiting:
                queue.put("a message")
            patience[waiting] = Backlog(desk.app).patience(name) / GRACE
    assert patience == {5: 1, 15: 1, 45: 4, 400: 32}


def test_what_is_asked_for_in_a_long_queue_is_put_off_by_that(
    desk: Desk, sweeping: Sweeper, task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "_AT_ONCE", 1)
    for name in names(8):
        task.apply_async(task_id=name)
    run = desk.store.tables.run
    with desk.store.link() as link:
        link.run(lambda connection: connection.execute(run.update().values(due_at=1)))
    before = now(desk)

    tick(desk, sweeping)

    assert all(desk.row(name)["due_at"] >= before + 8 * GRACE for name in names(8))
    assert sent(desk) == names(8), "and none of them twice"


def test_a_broadcast_sends_some_and_leaves_the_rest_to_the_sweeper(
    desk: Desk, sweeping: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be as many messages at once as runs wait for the event."""
    monkeypatch.setattr(dispatch, "_BATCH", 2)
    monkeypatch.setattr(dispatch, "_SENT_HERE", 4)

    flood(desk, *names(9))
    for name in names(9):
        park(desk, name)
    event_id = desk.durable.emit("news").id
    desk.messages()

    dispatch.dispatch(desk.app, event_id)

    assert sorted(unsent(desk)) == names(9)[4:]
    assert sent(desk) == names(4)
    tick(desk, sweeping)
    assert sorted(sent(desk)) == names(9)[4:]


def test_a_sweeper_whose_batch_takes_too_long_leaves_the_rest_to_the_next_one(
    desk: Desk, task: Any, sweeping: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lease ended within the batch. Another one led as well, and both sent all that was due."""
    monkeypatch.setattr(sending, "_CHUNK", 5)
    flood(desk, *names(10))
    other, published = Sweeper(desk.app), 0

    def take_the_lead(**_: Any) -> None:
        nonlocal published
        published += 1
        if published == 3:
            with desk.store.link() as link:
                desk.store.drop_lease(link, "sweeper", sweeping.name)
                assert other._leads(link)
            sweeping._leading_until = sweeping._ask_at = 0.0  # as time would have it

    with connected(signals.before_task_publish, take_the_lead):
        tick(desk, sweeping)
        tick(desk, other)

    assert sent(desk) == names(10)


@contextmanager
def connected(signal: Any, receiver: Any) -> Iterator[None]:
    signal.connect(receiver, weak=False)
    try:
        yield
    finally:
        signal.disconnect(receiver)
