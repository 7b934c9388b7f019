"""``emit`` and the log of events: what is recorded, what is sent, and what is refused."""

from __future__ import annotations

import logging
import threading
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from celery import Celery, signals
from pydantic import BaseModel

import celery_durable
from celery_durable import (
    ConfigurationError,
    Durable,
    DurableError,
    DurableTask,
    EventConflict,
    EventNotFound,
    NonRetryable,
    NotSerializable,
    PayloadTooLarge,
    connect,
    emit,
    step,
)
from celery_durable.core.codec import encode
from celery_durable.core.ids import fingerprint
from celery_durable.engine.executor import Finished
from celery_durable.store.records import NewRun
from celery_durable.worker import carrying
from celery_durable.worker.dispatch import DISPATCH, dispatch, event_emitted
from celery_durable.worker.emitting import emit_by
from celery_durable.worker.message import keep
from tests.engine.driving import Driver
from tests.waiting import wait_until
from tests.worker.conftest import Desk


def dispatches(desk: Desk, queue: str | None = None) -> list[str]:
    """The events whose dispatch was queued since the last call."""
    messages = [message for message in desk.messages(queue) if message.headers["task"] == DISPATCH]
    return [message.decode()[0][0] for message in messages]


def test_an_event_is_recorded_and_its_dispatch_queued(desk: Desk) -> None:
    receipt = desk.durable.emit("order.paid", {"amount": Decimal("9.90")}, key="order:1")

    assert receipt.duplicate is False
    event = desk.durable.event(receipt.id)
    assert (event.name, event.key, event.payload) == ("order.paid", "order:1", {"amount": Decimal("9.90")})
    assert event.dispatched_at is None
    assert dispatches(desk) == [receipt.id]


def test_the_same_event_id_counts_once(desk: Desk) -> None:
    first = desk.durable.emit("invoice", {"a": 1, "b": 2}, key="c", event_id="evt_1")
    again = desk.durable.emit("invoice", {"b": 2, "a": 1}, key="c", event_id="evt_1")

    assert (first.id, first.duplicate) == ("evt_1", False)
    assert (again.id, again.duplicate) == ("evt_1", True)
    assert dispatches(desk) == ["evt_1"]
    assert len(desk.durable.events()) == 1


@pytest.mark.parametrize(
    ("name", "payload", "key"), [("invoice", {"a": 2}, "c"), ("invoice", {"a": 1}, "d"), ("invoices", {"a": 1}, "c")]
)
def test_the_same_event_id_with_other_content_is_an_error(desk: Desk, name: str, payload: Any, key: str) -> None:
    desk.durable.emit("invoice", {"a": 1}, key="c", event_id="evt_1")
    with pytest.raises(EventConflict, match=r"'evt_1' was emitted before .*One event_id is one event"):
        desk.durable.emit(name, payload, key=key, event_id="evt_1")
    assert desk.durable.event("evt_1").payload == {"a": 1}


class Order(BaseModel):
    id: str
    total: Decimal


@dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("payload", "stored"),
    [
        (Order(id="o", total=Decimal("1.5")), {"id": "o", "total": Decimal("1.5")}),
        (Point(3), {"x": 3}),
        (None, None),
        ([1, (2, 3)], [1, (2, 3)]),
    ],
)
def test_what_a_payload_can_be(desk: Desk, payload: Any, stored: Any) -> None:
    assert desk.durable.event(desk.durable.emit("x", payload).id).payload == stored


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"name": ""}, ValueError, "can't be an event's name"),
        ({"name": "order.*"}, ValueError, "wildcard of on_event"),
        ({"name": 7}, TypeError, "an event's name is a string"),
        ({"name": "x" * 256}, ValueError, "256 characters; 255 are the most"),
        ({"name": "x", "key": 7}, TypeError, "write it as one"),
        ({"name": "x", "key": "a\ud800"}, ValueError, "can't be printed"),
        ({"name": "x", "event_id": ""}, ValueError, "event_id"),
        ({"name": "x", "payload": object()}, NotSerializable, "the payload of the event 'x' can't be stored"),
        ({"name": "x", "payload": "y" * 1_000_001}, PayloadTooLarge, "durable_max_payload is 1,000,000"),
        ({"name": "x", "session": object()}, TypeError, "a SQLAlchemy Session or Connection, or a Django connection"),
    ],
)
def test_what_is_refused(desk: Desk, given: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        desk.durable.emit(**given)
    assert desk.durable.events() == ()
    assert dispatches(desk) == []


def test_a_broker_that_is_away_loses_no_event(
    app: Celery, desk: Desk, closed_port: str, caplog: pytest.LogCaptureFixture
) -> None:
    desk.durable.migrate()
    app.conf.broker_url = closed_port
    receipt = desk.durable.emit("order.paid")
    assert "its dispatch could not be sent" in caplog.text
    with desk.store.link() as link:
        row = link.run(lambda connection: connection.execute(desk.store.tables.event.select()).one())
    assert (row.id, row.due_at is None) == (receipt.id, False)  # the sweeper's


def waiting(desk: Desk) -> Driver:
    """A run that alone waits for an event."""
    desk.durable.migrate()
    driver = Driver(desk.store, lambda: step.wait_for_event("order.paid", key="k").payload)
    with desk.store.link() as link:
        arguments = encode([[], {}])
        desk.store.start(link, NewRun("r1", "t", arguments, fingerprint(arguments), keep(desk.app, None, {})))
    driver.one_pass()
    return driver


def test_the_run_that_alone_waits_for_an_event_is_sent_before_the_dispatch(desk: Desk) -> None:
    driver = waiting(desk)
    receipt = desk.durable.emit("order.paid", 9, key="k")

    resumed, dispatched = desk.messages()
    assert (resumed.headers["id"], resumed.headers["task"]) == ("r1", "t")
    assert dispatched.headers["task"] == DISPATCH
    assert desk.durable.event(receipt.id).woke == ("r1",)
    assert driver.one_pass() == Finished(9)


class Bag:
    """A carrier, of a trace say."""

    def collect(self) -> dict[str, str]:
        return {"trace": "of the start"}

    def attach(self, carried: dict[str, str]) -> AbstractContextManager[None]:
        return nullcontext()


def test_a_run_with_a_trace_that_is_unknown_here_is_sent_by_the_dispatch(app: Celery, desk: Desk) -> None:
    """Else its next pass would begin a trace of its own."""
    carrying.register("bag", Bag())
    try:
        waiting(desk)
    finally:
        carrying.unregister("bag")
    receipt = desk.durable.emit("order.paid", 9, key="k")

    (dispatched,) = desk.messages()
    assert (dispatched.headers["task"], dispatched.headers["durable_wake"]) == (DISPATCH, "r1")
    assert desk.durable.event(receipt.id).woke == ("r1",)

    app.tasks[DISPATCH].apply((receipt.id,), headers={"durable_wake": "r1"})
    (resumed,) = desk.messages()
    assert resumed.headers["id"] == "r1"


def test_a_run_whose_message_can_not_be_sent_is_due(
    app: Celery, desk: Desk, closed_port: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    driver = waiting(desk)
    app.conf.broker_url = closed_port
    desk.durable.emit("order.paid", 9, key="k")
    assert "its message could not be sent" in caplog.text
    assert desk.row("r1")["due_at"] is not None  # the sweeper's
    assert driver.one_pass() == Finished(9)


def test_what_keeps_an_emit_from_answering_is_not_its_callers(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    desk.durable.migrate()
    desk.store.tables.wait.drop(desk.store.engine)
    receipt = desk.durable.emit("order.paid", key="k")
    assert f"event {receipt.id} is left to its dispatch" in caplog.text
    assert dispatches(desk) == [receipt.id]


def test_the_queue_of_dispatches_is_a_setting(app: Celery, desk: Desk) -> None:
    app.conf.durable_queue = "internal"
    receipt = desk.durable.emit("order.paid")
    assert dispatches(desk, "internal") == [receipt.id]
    assert dispatches(desk) == []


def test_others_hear_of_an_event_and_can_not_stop_it(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    heard = []

    def listen(sender: Any, event_id: str, name: str, key: str | None, **_: Any) -> None:
        heard.append((sender, event_id, name, key))
        raise RuntimeError("a bad listener")

    event_emitted.connect(listen)
    try:
        receipt = desk.durable.emit("order.paid", key="k")
    finally:
        event_emitted.disconnect(listen)
    assert heard == [(desk.app, receipt.id, "order.paid", "k")]
    assert dispatches(desk) == [receipt.id]


def test_emit_in_the_body_of_a_run_is_refused(app: Celery, desk: Desk) -> None:
    @app.task(shared=False, base=DurableTask)
    def flow() -> Any:
        emitted = step.run("inside a step", lambda: desk.durable.emit("fine").id)
        with pytest.raises(DurableError, match=r"emit\('again'\) was called in the body of run .* use step\.emit"):
            desk.durable.emit("again")
        return emitted

    emitted = flow.apply().get()
    assert [event.id for event in desk.durable.events()] == [emitted]


def test_emit_in_a_transaction_step_commits_with_it(app: Celery, desk: Desk) -> None:
    def write(session: Any, fails: bool) -> str:
        emitted = emit_by(app, "written", {"fails": fails}, session=session).id
        if fails:
            raise NonRetryable("rolled back")
        return emitted

    @app.task(shared=False, base=DurableTask)
    def flow() -> Any:
        emitted = step.transaction("works", write, False)
        with pytest.raises(NonRetryable):
            step.transaction("fails", write, True)
        return emitted

    emitted = flow.apply().get()
    assert [event.id for event in desk.durable.events()] == [emitted]
    assert wait_until(lambda: dispatches(desk), 5) == [emitted]


def test_a_dispatch_of_what_is_not_there_does_nothing(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    desk.durable.migrate()
    dispatch(desk.app, "rolled-back")
    assert "event rolled-back is not there" in caplog.text


# -- The app that emit means


@pytest.fixture
def no_apps(monkeypatch: pytest.MonkeyPatch) -> set[Celery]:
    """The apps of this process, as a test wants them."""
    from celery import _state

    apps: set[Celery] = set()
    monkeypatch.setattr(_state, "_get_active_apps", lambda: apps)
    monkeypatch.setattr(_state, "default_app", None)
    monkeypatch.setattr(_state, "_tls", threading.local())
    return apps


def in_a_thread(call: Any) -> Any:
    """What a call gives or raises in a thread of its own, which has no current app."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_without_a_current_app_emits_by_the_only_one(app: Celery, desk: Desk, no_apps: set[Celery]) -> None:
    no_apps.add(app)
    receipt = in_a_thread(lambda: emit("order.paid"))
    assert desk.durable.event(receipt.id).name == "order.paid"


def test_no_app_and_too_many_are_explained(app: Celery, no_apps: set[Celery]) -> None:
    error = in_a_thread(lambda: emit("x"))
    assert isinstance(error, ConfigurationError)
    assert "there is no Celery app in this process" in str(error)
    with Celery("one", set_as_current=False) as one, Celery("two", set_as_current=False) as two:
        no_apps |= {one, two}
        error = in_a_thread(lambda: emit("x"))
        assert isinstance(error, ConfigurationError)
        assert "several Celery apps" in str(error)
        assert "Durable(app).emit" in str(error)


# -- The log


def test_the_log_in_pages(desk: Desk) -> None:
    ids = [desk.durable.emit("a.one" if number % 2 else "a.two", number, key="k").id for number in range(7)]
    first = desk.durable.events(limit=3)
    second = desk.durable.events(limit=3, after=first.next)
    third = desk.durable.events(limit=3, after=second.next)
    assert [event.id for event in (*first, *second, *third)] == ids[::-1]
    assert third.next is None
    assert [event.payload for event in desk.durable.events(name="a.one")] == [5, 3, 1]
    assert len(desk.durable.events(name="a.*", key="k")) == 7
    assert desk.durable.events(name="a*", key="other") == ()
    assert len(desk.durable.events(since=first[-1].emitted_at)) >= 3


@pytest.mark.parametrize("given", [{"limit": 0}, {"limit": 1001}, {"limit": True}, {"after": "x"}])
def test_wrong_questions_to_the_log(desk: Desk, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is expected"):
        desk.durable.events(**given)


def test_an_event_that_is_not_there(desk: Desk) -> None:
    with pytest.raises(EventNotFound, match=r"there is no event 'e'.*durable_event_retention"):
        desk.durable.event("e")


# -- connect


def test_a_celery_signal_as_events(app: Celery, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(celery_durable.worker.emitting, "the_app", lambda: app)

    @app.task(shared=False, name="plain")
    def plain(value: int) -> int:
        return value

    receive = connect(
        signals.task_success,
        "task.done",
        key=lambda sender, **_: sender.name,
        payload=lambda sender, result, **_: {"result": result},
        event_id=lambda sender, **_: f"done:{sender.request.id}",
        when=lambda sender, result, **_: result != 2,
    )
    try:
        plain.apply((1,), task_id="t1")
        plain.apply((2,), task_id="t2")
        app.tasks[DISPATCH].apply(("nothing",))  # whose own success must not be an event
    finally:
        signals.task_success.disconnect(receive)
    (event,) = desk.durable.events()
    assert (event.id, event.name, event.key, event.payload) == ("done:t1", "task.done", "plain", {"result": 1})


def test_what_is_no_signal(app: Celery) -> None:
    with pytest.raises(ConfigurationError, match="a signal of Django, blinker or Celery is expected"):
        connect("post_save", "saved")


def test_two_clients_of_one_app_are_one(app: Celery, desk: Desk) -> None:
    receipt = Durable(app).emit("x", event_id="one")
    assert Durable(app).event(receipt.id).id == "one"


# ------------------------------------------------------------------------ audit


def test_who_emits_is_kept_where_that_is_said(desk: Desk) -> None:
    desk.durable.emit("paid", event_id="e-1")
    assert desk.durable.audit() == ()
    desk.durable.emit("paid", event_id="e-2", by="ann", reason="by phone")
    desk.durable.emit("paid", event_id="e-2", by="bob")  # again: nothing is emitted, and nobody has done anything
    assert [(deed.action, deed.actor, deed.reason, deed.details) for deed in desk.durable.audit()] == [
        ("emit", "ann", "by phone", {"event": "e-2"})
    ]


def test_who_emits_is_not_kept_where_the_event_is_refused(desk: Desk) -> None:
    desk.durable.emit("paid", 1, event_id="e-1")
    with pytest.raises(EventConflict):
        desk.durable.emit("paid", 2, event_id="e-1", by="ann")
    assert desk.durable.audit() == ()
