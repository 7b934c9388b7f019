"""Waiting for events and emitting them, by example."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from celery import Celery
from pydantic import BaseModel
from sqlalchemy import select

from celery_durable import DurableError, Event, EventTimeout, NotSerializable, PayloadTooLarge, step
from celery_durable.core.codec import decode, encode
from celery_durable.engine.events import EVENT_GRACE, event_of, new_event
from celery_durable.engine.executor import Cancelled, Failed, Finished, Parked
from celery_durable.engine.settings import Settings
from celery_durable.store.records import Claim, Deed
from celery_durable.store.store import Store
from celery_durable.worker.emitting import emit_by

from .driving import LEASE, Driver

Started = Callable[..., Driver]


def emit(store: Store, name: str, payload: Any = None, key: str | None = None) -> str:
    with store.link() as link:
        event_id = f"event-{len(rows(store, 'event'))}"
        assert store.emit(link, new_event(event_id, name, payload, key, max_payload=10**6), EVENT_GRACE)
    return event_id


def dispatch(store: Store, event_id: str) -> list[str]:
    """The runs that it woke."""
    woken: list[str] = []
    with store.link() as link:
        event = store.event(link, event_id)
        assert event is not None
        store.close_gates(link, event)
        for waits in list(store.waits_for(link, event, 200)):
            woken += store.deliver(link, event, encode(event_of(event)), waits, EVENT_GRACE)
        store.dispatched(link, event_id, None)
    return woken


def rows(store: Store, table: str) -> list[Any]:
    with store.engine.connect() as connection:
        return list(connection.execute(select(getattr(store.tables, table))))


def claim(driver: Driver) -> Claim:
    with driver.store.link() as link:
        claimed = driver.store.claim(link, "r1", worker="w", lease=LEASE)
    assert isinstance(claimed, Claim)
    return claimed


def wait_for_all(*names: str, **options: Any) -> Callable[[], list[Any]]:
    """A body that waits for one event after the other, and returns their payloads."""

    def body() -> list[Any]:
        found = [step.wait_for_event(f"{index}", name, **options) for index, name in enumerate(names)]
        return [event and event.payload for event in found]

    return body


# -- An event and a wait


def test_an_event_that_comes_after_the_wait(store: Store, started: Started) -> None:
    driver = started(lambda: step.wait_for_event("order.paid", key="o1"))
    assert driver.one_pass() == Parked("the event 'order.paid' with the key 'o1'")
    assert driver.dispatcher.announced == ["the event 'order.paid' with the key 'o1'"]
    assert (driver.run()["wake_at"], driver.run()["due_at"]) == (None, None)
    assert driver.steps()["order.paid"]["status"] == "waiting"

    event_id = emit(store, "order.paid", {"amount": Decimal("9.90")}, key="o1")
    assert dispatch(store, event_id) == ["r1"]
    assert dispatch(store, event_id) == []
    ended = driver.one_pass()
    assert isinstance(ended, Finished)
    event = ended.value
    assert type(event) is Event
    assert (event.id, event.name, event.key, event.payload) == (
        event_id,
        "order.paid",
        "o1",
        {"amount": Decimal("9.90")},
    )
    assert event.emitted_at.tzinfo is not None
    assert rows(store, "wait") == []


PAID = {"total": 5, "lines": [{"sku": "a"}, {"sku": "b", "tags": ["x"]}], "a.b": True}


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize(
    ("asked", "key", "answers"),
    [
        ({}, None, True), ({}, "k", True), ({"key": "k"}, "k", True), ({"key": "k"}, None, False),
        ({"key": "k"}, "l", False), ({"key": "k"}, "K", False), ({"key": "é"}, "e\u0301", False),
        ({"key": "k%"}, "kx", False), ({"match": {}}, None, True), ({"match": {"total": 5}, "key": "k"}, "k", True),
        ({"match": {"total": 5}, "key": "k"}, "l", False), ({"match": {"total": 5, "a.b": True}}, "k", True),
        ({"match": {"a.b": 1}}, None, False), ({"match": {"lines.1.sku": "b"}}, None, True),
        ({"match": {"lines.1.tags": ("x",)}}, None, True), ({"match": {"lines.2.sku": "b"}}, None, False),
        ({"match": {"total": 5, "missing": None}}, None, False), ({"match": {"lines.1": {"sku": "b"}}}, None, False),
    ],
)  # fmt: skip
def test_keys_and_match(
    store: Store, started: Started, early: bool, asked: dict[str, Any], key: str | None, answers: bool
) -> None:
    driver = started(wait_for_all("a", **asked))
    if not early:
        driver.one_pass()
    woken = dispatch(store, emit(store, "b", PAID, key=key)) + dispatch(store, emit(store, "a", PAID, key=key))
    assert woken == (["r1"] if answers and not early else [])
    assert (driver.one_pass() == Finished([PAID])) is answers


def test_the_oldest_match_is_found_among_many(store: Store, started: Started) -> None:
    driver = started(wait_for_all("a", "a", "a", match={"wanted": True}))
    with store.engine.begin() as connection:
        for number in range(330):
            wanted = number in (150, 299, 320)
            new = new_event(f"event-{number}", "a", {"wanted": wanted, "number": number}, None, max_payload=1000)
            store.emit_within(connection.execute, new, EVENT_GRACE)
    ended = driver.one_pass()
    assert isinstance(ended, Finished)
    assert [payload["number"] for payload in ended.value] == [150, 299, 320]


def test_waits_take_events_in_their_order_and_each_once(store: Store, started: Started) -> None:
    driver = started(wait_for_all("a", "a", "a", "b"))
    first = emit(store, "a", 1)
    emit(store, "b", "b")
    second = emit(store, "a", 2)
    assert isinstance(driver.one_pass(), Parked)
    assert [row.step_id for row in rows(store, "wait")] == ["2"]
    assert dispatch(store, first) == dispatch(store, second) == []
    assert dispatch(store, emit(store, "a", 3)) == ["r1"]
    assert driver.one_pass() == Finished([1, 2, 3, "b"])


def test_a_paused_run_is_answered_and_not_woken(store: Store, started: Started) -> None:
    driver = started(wait_for_all("a"))
    driver.one_pass()
    with store.link() as link:
        assert store.recover(link, claim(driver).fence, pause_because="a person")
    assert dispatch(store, emit(store, "a", 1)) == []
    assert driver.run()["status"] == "paused"
    with store.link() as link:
        assert store.resume_by_hand(link, "r1", Deed("resume", "x"))
    assert driver.one_pass() == Finished([1])


# -- A timeout


def test_a_time_that_is_up_is_none(store: Store, started: Started) -> None:
    driver = started(wait_for_all("a", "a", timeout="1h"))
    parked = driver.one_pass()
    assert isinstance(parked, Parked)
    assert parked.wake_at == driver.run()["wake_at"] == driver.steps()["0"]["wake_at"]
    driver.let_time_pass()
    assert isinstance(driver.one_pass(), Parked)
    first = driver.steps()["0"]
    assert (first["status"], first["result"], first["error"]) == ("completed", "null", None)
    dispatch(store, emit(store, "a", "late"))
    assert driver.steps()["0"] == first
    assert driver.one_pass() == Finished([None, "late"])


@pytest.mark.parametrize("options", [{}, {"timeout": "1h", "on_timeout": "fail"}])
def test_an_event_that_comes_while_the_run_is_held(store: Store, started: Started, options: dict[str, Any]) -> None:
    driver = started(wait_for_all("a", **options))
    driver.one_pass()
    driver.let_time_pass()
    held = claim(driver)
    assert dispatch(store, emit(store, "a", "in time")) == []
    with store.link() as link:
        assert driver.execute(link, held) == Finished(["in time"])


def test_a_timeout_that_is_an_error(store: Store, started: Started) -> None:
    seen: list[BaseException] = []

    def body() -> str:
        try:
            step.wait_for_event("paid", "order.paid", key="o1", timeout="1h30m", on_timeout="fail")
        except EventTimeout as error:
            seen.append(error)
        return str(step.sleep("nap", "1h") or "went on")

    driver = started(body)
    assert driver.value() == "went on"
    first, second = seen
    assert type(first) is type(second) is EventTimeout
    assert str(first) == str(second) == (
        "the event 'order.paid' with the key 'o1' did not come within 1h30m (step 'paid' of run r1): emit it in time, "
        "give the wait a longer timeout, or catch this"
    )  # fmt: skip
    assert driver.steps()["paid"]["status"] == "failed"


@pytest.mark.parametrize("overruled", [False, True])
def test_a_timeout_that_cancels(started: Started, overruled: bool) -> None:
    cleaned: list[str] = []

    def body() -> str:
        try:
            step.wait_for_event("a", timeout="1h", on_timeout="cancel")
        except Exception:
            cleaned.append("never: it is no Exception")
        except BaseException:
            if not overruled:
                raise
        finally:
            step.run("refund", cleaned.append, "refund")
            step.sleep("between", "1h")
            step.run("tell", cleaned.append, "tell")
        return "not cancelled"

    driver = started(body)
    ended = driver.finish()
    assert isinstance(ended, Cancelled)
    assert ended.why.startswith("the event 'a' did not come within 1h (step 'a' of run r1)")
    assert cleaned == ["refund", "tell"]
    assert (driver.run()["status"], driver.run()["result"]) == ("cancelled", None)
    assert [driver.steps()[name]["status"] for name in ("a", "tell")] == ["failed", "completed"]


def test_a_timeout_of_zero_looks_and_does_not_wait(store: Store, started: Started) -> None:
    driver = started(wait_for_all("a", "a", timeout=0))
    emit(store, "b", "not this")
    emit(store, "a", "this")
    assert driver.one_pass() == Finished(["this", None])
    assert (driver.dispatcher.announced, rows(store, "wait")) == ([], [])


# -- What is asked for


class Approval(BaseModel):
    approved: bool
    by: str = "nobody"


def test_a_form(store: Store, started: Started) -> None:
    seen: list[Any] = []

    def body() -> Any:
        event = step.wait_for_event("approval", form=Approval)
        assert event is not None
        seen.append(event.payload)
        step.sleep("nap", "1h")
        return event.payload

    driver = started(body, result=Approval)
    driver.one_pass()
    assert json.loads(driver.steps()["approval"]["input"])["form"]["required"] == ["approved"]
    dispatch(store, emit(store, "approval", {"approved": True}))
    assert driver.value() == {"approved": True, "by": "nobody"}
    assert seen == [Approval(approved=True), Approval(approved=True)]


def test_a_payload_that_does_not_fit_the_form(store: Store, started: Started) -> None:
    driver = started(lambda: step.wait_for_event("approval", form=Approval))
    emit(store, "approval", {"approved": "perhaps"})
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert type(ended.error) is NotSerializable
    assert str(ended.error).startswith(
        "the payload of the event 'approval', which step 'approval' waited for, does not fit its annotation Approval: "
        "approved: Input should be a valid boolean"
    )


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"on_timeout": "ignore", "timeout": 1}, ValueError, "on_timeout='ignore': \"none\", \"fail\" or \"cancel\""),
        ({"on_timeout": "fail"}, ValueError, "on_timeout='fail' needs a timeout"),
        ({"on_timeout": "cancel"}, ValueError, "needs a timeout: without one the wait never ends"),
        ({"timeout": "soon"}, ValueError, "'soon' is no duration"), ({"timeout": -1}, ValueError, "negative"),
        ({"timeout": True}, TypeError, "no duration"), ({"key": 7}, TypeError, "an event's key is a string"),
        ({"key": ""}, ValueError, "can't be an event's key"), ({"event": "a*"}, ValueError, "wildcard of on_event"),
        ({"event": " a"}, ValueError, "can't be an event's name"), ({"event": 7}, TypeError, "an event's name"),
        ({"match": ["plan"]}, TypeError, "a mapping of payload paths to"), ({"match": {1: 2}}, TypeError, "paths"),
        ({"match": {"a": object()}}, NotSerializable, "can't be stored"), ({"form": dict}, TypeError, "pydantic model"),
        ({"form": Approval(approved=True)}, TypeError, "the class itself"), ({"prompt": 7}, TypeError, "a string"),
    ],
)  # fmt: skip
def test_wrong_arguments(started: Started, options: dict[str, Any], error: type[Exception], said: str) -> None:
    driver = started(lambda: step.wait_for_event("a", **options))
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert type(ended.error) is error
    assert said in str(ended.error)
    assert driver.steps() == {}


@pytest.mark.parametrize("strict", [False, True])
def test_code_that_waits_for_something_else(
    store: Store, started: Started, caplog: pytest.LogCaptureFixture, strict: bool
) -> None:
    driver = started(lambda: step.wait_for_event("w", "a"), settings=Settings(lease=LEASE, strict_inputs=strict))
    driver.one_pass()
    driver.body = lambda: step.wait_for_event("w", "b")
    event_id = emit(store, "a", 1)
    emit(store, "b", 2)
    assert dispatch(store, event_id) == ["r1"]
    ended = driver.one_pass()
    if strict:
        assert isinstance(ended, Parked)
        assert ended.status == "paused"
        assert 'recorded: a \'wait\' step, given {"event": "a"' in ended.waiting_on
        assert 'the code: a \'wait\' step, given {"event": "b"' in ended.waiting_on
    else:  # what was registered is what counts
        assert isinstance(ended, Finished)
        assert ended.value.payload == 1
        assert "step 'w': its recorded result was kept, but the code now gives it another input" in caplog.text


def test_code_that_asks_for_another_kind_of_step(store: Store, started: Started) -> None:
    driver = started(lambda: step.wait_for_event("s", "a"))
    driver.one_pass()
    bodies = {"emit": lambda: step.emit("s", "b"), "run": lambda: step.run("s", lambda: "x")}
    for kind, driver.body in bodies.items():
        driver.let_time_pass()
        with store.link() as link:
            store.resume_by_hand(link, "r1", Deed("resume", "x"))
            store.recover(link, claim(driver).fence)
        ended = driver.one_pass()
        assert isinstance(ended, Parked)
        assert "recorded: a 'wait' step, given" in ended.waiting_on
        assert f"the code: a {kind!r} step" in ended.waiting_on


# -- Emitting in a run


@dataclass
class Line:
    sku: str
    price: Decimal


@pytest.mark.parametrize(
    ("payload", "plain"),
    [
        (None, None), ({"a": (1, Decimal("1.5"))}, {"a": (1, Decimal("1.5"))}), (Approval(approved=True, by="Ann"),
        {"approved": True, "by": "Ann"}), (Line("a", Decimal("9.90")), {"sku": "a", "price": Decimal("9.90")}),
    ],
)  # fmt: skip
def test_an_event_is_emitted_once(store: Store, started: Started, payload: Any, plain: Any) -> None:
    ids: list[str] = []

    def body() -> Any:
        ids.append(step.emit("tell", "order.shipped", payload, key="o1"))
        step.sleep("nap", "1h")
        event = step.wait_for_event("own", "order.shipped", key="o1")
        return event and event.payload

    driver = started(body)
    assert driver.value() == plain
    (event,) = rows(store, "event")
    assert ids == [event.id] * driver.run()["passes"] == driver.dispatcher.events * len(ids)
    assert (event.emitted_by, event.name, event.key) == ("r1", "order.shipped", "o1")
    assert decode(driver.steps()["tell"]["result"]) == event.id


@pytest.mark.parametrize(
    ("payload", "error", "said"),
    [
        ("x" * 1000, PayloadTooLarge, "the payload of the event 'a' takes 1,002 bytes, and durable_max_payload is 900"),
        ({"x": [object()]}, NotSerializable, "the payload of the event 'a' can't be stored: object at ['x'][0]"),
    ],
)
def test_payloads_that_are_refused(
    store: Store, started: Started, payload: Any, error: type[Exception], said: str
) -> None:
    ended = started(lambda: step.emit("tell", "a", payload), settings=Settings(lease=LEASE, max_payload=900)).one_pass()
    assert isinstance(ended, Failed)
    assert type(ended.error) is error
    assert said in str(ended.error)
    assert rows(store, "event") == []


def test_emit_in_a_body_is_refused(started: Started) -> None:
    ended = started(lambda: emit_by(Celery(set_as_current=False), "a")).one_pass()
    assert isinstance(ended, Failed)
    assert type(ended.error) is DurableError
    assert "which is executed again at every replay: use step.emit(id, name, ...), which emits once" in str(ended.error)
