"""What starts runs: triggers by events and by a beat, their dispatch, and the sweeper's part in it."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery

from celery_durable import ConfigurationError, Durable, DurableTask, Event, on_event, on_schedule, step
from celery_durable.core.duration import SECOND
from celery_durable.worker import dispatch as dispatching
from celery_durable.worker.dispatch import dispatch
from celery_durable.worker.schedules import SCHEDULE_HEADER
from tests.worker.conftest import Desk
from tests.worker.test_emit import dispatches


def declare(app: Celery, name: str, triggers: Any, body: Any = None) -> Any:
    def plain(event: Event) -> None: ...

    return app.task(body or plain, shared=False, base=DurableTask, name=name, triggers=triggers)


def started(desk: Desk, event_id: str) -> list[str]:
    return sorted(desk.durable.get(run).task for run in desk.durable.event(event_id).started)


def test_which_tasks_an_event_starts(app: Celery, desk: Desk) -> None:
    declare(app, "exact", [on_event("customer.created")])
    declare(app, "prefix", [on_event("customer.*")])
    declare(app, "all", [on_event("*")])
    declare(app, "pro", [on_event("customer.created", when={"plan.name": "pro"})])
    declare(app, "free", [on_event("customer.created", when={"plan.name": "free"})])
    declare(app, "twice", [on_event("customer.*"), on_event("customer.created"), on_event("other")])
    declare(app, "other", [on_event("customer"), on_event("order.*")])

    desk.durable.emit("customer.created", {"plan": {"name": "pro"}}, event_id="e1")
    dispatch(app, "e1")
    desk.durable.emit("something", event_id="e2")
    dispatch(app, "e2")

    assert started(desk, "e1") == ["all", "exact", "prefix", "pro", "twice"]
    assert started(desk, "e2") == ["all"]
    assert desk.durable.event("e2").dispatched_at is not None


def test_the_argument_is_the_event_with_and_without_an_annotation(app: Celery, desk: Desk) -> None:
    def annotated(event: Event) -> Any:
        return [type(event).__name__, event.payload]

    def plain(event: Any) -> Any:
        return [type(event).__name__, event.payload]

    declare(app, "annotated", [on_event("x")], annotated)
    declare(app, "plain", [on_event("x")], plain)
    desk.durable.emit("x", (1, 2), event_id="e")
    dispatch(app, "e")
    starts = {message.headers["task"]: message for message in desk.messages() if "durable_pass" in message.headers}
    assert sorted(starts) == ["annotated", "plain"]
    for message in starts.values():
        (shown,) = message.decode()[0]
        assert (shown["id"], shown["payload"]) == ("e", [1, 2])  # for people: the run has its own record of it
    for run in desk.durable.event("e").started:
        assert [type(value).__name__ for value in desk.durable.get(run).args] in (["Event"], ["dict"])


@pytest.mark.parametrize(
    ("triggers", "said"),
    [
        (on_event("x"), "a list of on_event"),
        ("x", "has the trigger 'x'"),
        (7, "a list of on_event"),
        ([lambda: None], r"on_event\(\.\.\.\) or on_schedule\(\.\.\.\) is expected"),
    ],
)
def test_wrong_triggers_are_refused_when_the_app_starts(app: Celery, triggers: Any, said: str) -> None:
    declare(app, "wrong", triggers)
    with pytest.raises(ConfigurationError, match=said):
        app.finalize()


@pytest.mark.parametrize("name", ["", " x", "a*b*", 7])
def test_wrong_patterns(name: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        on_event(name)


def test_a_run_does_not_wait_for_the_event_that_started_it(app: Celery, desk: Desk) -> None:
    """Emitted at the same moment at which the run is started, as far as a coarse clock can tell."""

    def waits(event: Event) -> Any:
        return step.wait_for_event("again", event.name, timeout=0)

    declare(app, "waits", [on_event("x")], waits)
    desk.durable.emit("x", event_id="e")
    dispatch(app, "e")
    (run,) = desk.durable.event("e").started
    event, run_table = desk.store.tables.event, desk.store.tables.run
    with desk.store.engine.connect() as connection:
        connection.execute(event.update().values(emitted_at=run_table.select().subquery().c.created_at))
    task = app.tasks["waits"]
    task.apply((desk.durable.event("e"),), task_id=run)
    assert desk.durable.get(run).result is None


def test_a_task_that_can_not_be_started_is_tried_again(
    app: Celery, desk: Desk, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(event: int) -> None: ...

    declare(app, "wrong", [on_event("x")], wrong)
    declare(app, "right", [on_event("x")])
    desk.durable.emit("x", event_id="e")

    dispatch(app, "e")

    found = desk.durable.event("e")
    assert "wrong could not be started: NotSerializable" in (found.error or "")
    assert started(desk, "e") == ["right"], "the others are not kept from it"
    assert found.dispatched_at is None, "a deploy that mends it may come"
    monkeypatch.setattr(dispatching, "_MOST_SENDS", 0)
    dispatch(app, "e")
    assert desk.durable.event("e").dispatched_at is not None
    assert "wrong could not be started" in (desk.durable.event("e").error or "")


def test_one_run_for_each_tick_of_a_beat(app: Celery, desk: Desk) -> None:
    def body() -> None: ...

    report = declare(app, "report", [on_schedule(3600)], body)
    desk.durable.migrate()

    ids = {report.apply_async(headers={SCHEDULE_HEADER: 0, "tenant": "t"}).id for _ in range(3)}

    (run_id,) = ids
    assert run_id.startswith("report@")
    (message,) = desk.messages()
    assert message.headers["id"] == run_id
    assert message.headers["tenant"] == "t"
    with desk.store.link() as link:
        kept = link.run(lambda connection: connection.execute(desk.store.tables.input.select()).one())
    assert SCHEDULE_HEADER not in kept.message, "what this run starts is not the beat's"
    with pytest.raises(ConfigurationError, match="taken out of the code, so delete its entry"):
        report.apply_async(headers={SCHEDULE_HEADER: 1})
    assert report.delay().id != run_id


# -- The sweeper


def put(desk: Desk, **values: Any) -> None:
    with desk.store.link() as link:
        link.run(lambda connection: connection.execute(desk.store.tables.event.update().values(**values)))


def test_a_dispatch_that_was_lost_is_sent_again(desk: Desk) -> None:
    desk.durable.emit("x", event_id="e")
    assert dispatches(desk) == ["e"]
    desk.tick()
    assert dispatches(desk) == [], "not due yet"
    put(desk, due_at=1)

    desk.tick()

    assert dispatches(desk) == ["e"]
    desk.tick()
    assert dispatches(desk) == [], "it has time to arrive"


def test_a_dispatch_in_a_backlog_is_not_sent_again(desk: Desk) -> None:
    desk.durable.emit("x", event_id="e")
    put(desk, due_at=1, sends=1)
    desk.tick()
    assert dispatches(desk) == ["e"], "the first one, which waits in the queue"


def test_old_events_are_forgotten(app: Celery, desk: Desk) -> None:
    app.conf.durable_event_retention = "1d"
    declare(app, "all", [on_event("x")])
    for number in range(3):
        desk.durable.emit("x", event_id=f"e{number}")
    dispatch(app, "e0")
    dispatch(app, "e1")
    desk.tick()
    assert len(desk.durable.events()) == 3
    event, now = desk.store.tables.event, desk.store.dialect.now()
    with desk.store.engine.connect() as connection:
        aged = event.update().where(event.c.id.in_(["e0", "e2"])).values(emitted_at=now - 86_401 * SECOND)
        connection.execute(aged)

    desk.tick()

    assert [one.id for one in desk.durable.events()] == ["e2", "e1"], "e2 is not dispatched, whatever its age"
    with desk.store.engine.connect() as connection:
        assert len(connection.execute(desk.store.tables.taken.select()).all()) == 1


def test_eager_runs_and_events(app: Celery, desk: Desk) -> None:
    @app.task(shared=False, base=DurableTask, name="early")
    def early() -> Any:
        step.emit("tell", "told", 7)
        event = step.wait_for_event("told")
        assert event is not None
        return [event.payload, step.wait_for_event("never", timeout="1w")]

    @app.task(shared=False, base=DurableTask, name="for ever")
    def for_ever() -> Any:
        step.wait_for_event("never")

    assert early.apply().get() == [7, None]
    result = for_ever.apply()
    assert result.state == "FAILURE"
    assert "is executed eagerly and waits for the event 'never', which nobody can emit meanwhile" in str(result.result)


def test_always_eager_dispatches_at_once(app: Celery, desk: Desk) -> None:
    app.conf.task_always_eager = True
    seen = []

    def note(event: Event) -> None:
        seen.append(event.payload)

    declare(app, "note", [on_event("x")], note)
    app.finalize()
    receipt = Durable(app).emit("x", 5)
    assert seen == [5]
    assert desk.durable.event(receipt.id).dispatched_at is not None
