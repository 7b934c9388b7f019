"""An event that finds one wait alone is answered by whoever emits it; all else is left to the dispatch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any

import pytest
from sqlalchemy import BigInteger, literal, select, update

from celery_durable import step
from celery_durable.core.codec import encode
from celery_durable.core.duration import SECOND, as_datetime
from celery_durable.engine.current import current_pass
from celery_durable.engine.events import answer_text, event_of, new_event
from celery_durable.engine.executor import Finished
from celery_durable.errors import EventConflict
from celery_durable.store.link import Link
from celery_durable.store.lone import Emitted, LoneWait
from celery_durable.store.records import Due
from celery_durable.store.statements.lone import iso
from celery_durable.store.store import Store
from tests.engine.driving import Driver

from .making import put, run_row, step_rows


class Backwards:
    """A codec."""

    def encode(self, data: bytes) -> bytes:
        return data[::-1]

    decode = encode


ROUNDS = 150
"""Waits that several go for at once, for each database."""


def waiting(store: Store, *runs: str, **how: Any) -> Driver:
    """Runs that wait for the same event."""
    driver = Driver(store, lambda: step.wait_for_event("paid", **how).payload)
    for run_id in runs or ("r1",):
        driver.start(run_id)
        driver.one_pass(run_id)
    return driver


def emitted(store: Store, link: Link, event_id: str = "e1", payload: Any = 7, key: str | None = "k") -> None:
    assert store.emit(link, new_event(event_id, "paid", payload, key, max_payload=1000), SECOND)


@pytest.fixture(params=["emit_answering", "emit, and answer"])
def emit(request: pytest.FixtureRequest, store: Store, link: Link) -> Callable[..., Due | None]:
    """Emit an event and answer the wait for it, by one statement where there is one, or one after the other."""

    def emit_and_answer(event_id: str = "e1", payload: Any = 7, key: str | None = "k") -> Due | None:
        event = new_event(event_id, "paid", payload, key, max_payload=1000)
        if request.param == "emit_answering":
            found = store.emit_answering(link, event, answer_text, SECOND)
            assert found.is_new
            if found.has_looked:
                assert store.dialect.writes_in_cte
                return found.woken
        else:
            assert store.emit(link, event, SECOND)
        return answer(store, link, event_id, key)

    return emit_and_answer


def answer(store: Store, link: Link, event_id: str = "e1", key: str | None = "k") -> Due | None:
    wait = store.lone_wait(link, event_id, "paid", key)
    return None if wait is None else answer_to(store, link, wait)


def answer_to(store: Store, link: Link, wait: LoneWait) -> Due | None:
    return store.answer_lone(link, wait, encode(event_of(wait.event)), SECOND)


def deliver(store: Store, link: Link, event_id: str) -> int:
    """What its dispatch does."""
    event = store.event(link, event_id)
    assert event is not None
    batches = store.waits_for(link, event, 100)
    return sum(len(store.deliver(link, event, encode(event_of(event)), waits, 0)) for waits in batches)


def take_back_dispatch(store: Store, link: Link, event_id: str) -> None:
    """It was not dispatched, but is not due either."""
    event = store.tables.event
    statement = update(event).where(event.c.id == event_id).values(dispatched_at=None)
    link.run(lambda connection: connection.execute(statement))


def takers(store: Store, link: Link) -> list[str]:
    taken = store.tables.taken
    return list(link.run(lambda connection: connection.execute(select(taken.c.run_id)).scalars().all()))


@pytest.mark.parametrize(("key", "waits_for"), [("k", "k"), ("k", None), (None, None)])
def test_the_run_that_waits_alone_is_woken(
    store: Store, link: Link, emit: Callable[..., Due | None], key: str | None, waits_for: str | None
) -> None:
    driver = waiting(store, key=waits_for)

    due = emit(key=key)

    assert due is not None
    row = run_row(store, link)
    assert (due.fence.run_id, due.task, due.passes, due.arguments, due.message) == ("r1", "t", 1, "[[],{}]", "{}")
    assert (row["status"], row["waiting_on"], row["sends"], row["wake_at"]) == ("suspended", "a worker", 1, None)
    assert due.due_at == pytest.approx(row["due_at"], abs=SECOND / 10)
    assert due.due_at == pytest.approx(due.now + SECOND, abs=SECOND / 10)
    assert takers(store, link) == ["r1"]
    assert driver.one_pass() == Finished(7)


@pytest.mark.parametrize("payload", ["null", None, {"at": datetime(1970, 1, 1, tzinfo=timezone.utc)}, 'é"\\x', [{}]])
def test_the_answer_is_the_event_as_its_log_has_it(
    store: Store, link: Link, emit: Callable[..., Due | None], payload: Any
) -> None:
    """It is put together by the database where that takes one statement."""
    event_id, key = 'null "1970-01-01T00:00:00+00:00"', '\\"null,'
    driver = Driver(store, lambda: encode(step.wait_for_event("paid", key=key)))
    driver.start("r1")
    driver.one_pass("r1")

    assert emit(event_id, payload, key) is not None

    stored = store.event(link, event_id)
    assert stored is not None
    event = event_of(stored)
    assert (event.payload, event.key) == (payload, key)
    assert driver.one_pass() == Finished(encode(event))


@pytest.mark.parametrize("micros", [0, 1, 999_999, 1_764_417_600_000_000, 1_764_417_612_000_345, 4_102_444_799_999_999])
def test_a_time_is_written_as_it_is_read(postgresql_url: str, micros: int) -> None:
    with Store(postgresql_url).engine.connect() as connection:
        written = connection.execute(select(iso(literal(micros, BigInteger)))).scalar_one()
    assert datetime.fromisoformat(written) == as_datetime(micros)


def test_an_answer_that_is_sealed_is_put_together_here(store: Store, link: Link) -> None:
    """By three statements: the text around a payload is sealed with it."""
    sealing = Store(store.engine.url.render_as_string(hide_password=False), sealer=Backwards())
    driver = waiting(sealing, key="k")
    with sealing.link() as own:
        event = new_event("e1", "paid", {"secret": 1}, "k", max_payload=1000)
        assert sealing.emit_answering(own, event, answer_text, SECOND) == Emitted(True)
        assert answer(sealing, own) is not None
    assert driver.one_pass() == Finished({"secret": 1})
    assert step_rows(store, link)["paid"]["result"].startswith("sealed:")
    sealing.engine.dispose()


def test_the_dispatch_that_comes_afterwards_finds_nothing_to_answer(store: Store, link: Link) -> None:
    waiting(store, key="k")
    emitted(store, link)
    assert answer(store, link) is not None

    event = store.event(link, "e1")
    assert event is not None
    assert event.dispatched_at is None  # it may start runs yet
    store.close_gates(link, event)
    assert store.prospects(link, event) == (False, False, False)
    assert answer(store, link) is None
    assert takers(store, link) == ["r1"]


@pytest.mark.parametrize(("match", "is_answered"), [({"plan": "pro"}, True), ({"plan": "free"}, False)])
def test_what_the_wait_asks_of_the_payload_is_looked_at(
    store: Store, emit: Callable[..., Due | None], match: dict[str, str], is_answered: bool
) -> None:
    waiting(store, key="k", match=match)
    assert (emit(payload={"plan": "pro"}) is not None) == is_answered


def test_an_event_of_another_key_is_none_for_it(store: Store, emit: Callable[..., Due | None]) -> None:
    waiting(store, key="k")
    assert emit(key="other") is None
    assert emit("e2", key=None) is None


def test_two_waits_are_left_to_the_dispatch(store: Store, link: Link, emit: Callable[..., Due | None]) -> None:
    waiting(store, "r1", "r2", key="k")
    assert emit() is None
    assert takers(store, link) == []


@pytest.mark.parametrize(("first", "waits_for", "is_left"), [("k", "k", True), ("j", "k", False), ("j", None, True)])
def test_an_event_that_may_come_before_it_is_answered_first(
    store: Store, link: Link, emit: Callable[..., Due | None], first: str, waits_for: str | None, is_left: bool
) -> None:
    waiting(store, key=waits_for)
    emitted(store, link, "e0", key=first)

    assert (emit() is None) == is_left

    store.dispatched(link, "e0", None)
    assert (answer(store, link) is None) != is_left


@pytest.mark.parametrize("status", ["running", "paused", "cancelled"])
def test_a_run_that_does_not_sleep_is_left_alone(
    store: Store, link: Link, emit: Callable[..., Due | None], status: str
) -> None:
    waiting(store, key="k")
    put(store, link, status=status)

    assert emit() is None

    assert takers(store, link) == []
    assert step_rows(store, link)["paid"]["status"] == "waiting"


def test_an_event_that_is_there_is_not_emitted_again(store: Store, link: Link) -> None:
    waiting(store, key="k")
    emitted(store, link)
    event = new_event("e1", "paid", 7, "k", max_payload=1000)
    assert store.emit_answering(link, event, answer_text, SECOND) == Emitted(False)
    with pytest.raises(EventConflict, match="'e1' was emitted before with another key or payload"):
        store.emit_answering(link, new_event("e1", "paid", 8, "k", max_payload=1000), answer_text, SECOND)


def test_nobody_is_waited_for_who_has_the_run(store: Store, link: Link) -> None:
    """On SQLite, where who writes is alone, an emit itself waits for that."""
    if store.dialect.one_writer:
        pytest.skip("a database without locks of rows")
    waiting(store, key="k")
    emitted(store, link)
    run = store.tables.run
    with store.engine.connect().execution_options(isolation_level="READ COMMITTED") as other, other.begin():
        other.execute(update(run).where(run.c.id == "r1").values(waiting_on="a change that is not committed"))
        assert answer(store, link) is None  # and not after a time
    assert answer(store, link) is not None


def test_a_wait_that_was_answered_meanwhile_is_not_answered_again(store: Store, link: Link) -> None:
    waiting(store, key="k")
    emitted(store, link)
    wait = store.lone_wait(link, "e1", "paid", "k")
    assert wait is not None
    assert store.deliver(link, wait.event, encode(event_of(wait.event)), [("r1", wait.step_id)], SECOND) == ["r1"]

    assert answer_to(store, link, wait) is None

    assert takers(store, link) == ["r1"]


def test_an_event_that_the_run_has_had_is_not_given_to_it_again(store: Store, link: Link) -> None:
    waiting(store, key="k")
    emitted(store, link)
    wait = store.lone_wait(link, "e1", "paid", "k")
    assert wait is not None
    values = {"run_id": "r1", "event": wait.event.seq, "step_id": "another", "taken_at": 0}
    link.run(lambda connection: connection.execute(store.tables.taken.insert().values(values)))

    assert answer_to(store, link, wait) is None

    assert step_rows(store, link)["paid"]["status"] == "waiting"


def test_of_several_who_answer_a_wait_at_once_one_does(racing: Store) -> None:
    """An emit that answers it, the dispatch of the same event, and an emit of another one."""
    store, meeting = racing, threading.Barrier(3)
    driver = Driver(store, lambda: step.wait_for_event("paid", key="k").payload)

    def by_emit(event_id: str) -> int:
        with store.link() as link:
            wait = store.lone_wait(link, event_id, "paid", "k")
            meeting.wait(20)
            return int(wait is not None and answer_to(store, link, wait) is not None)

    def by_dispatch(event_id: str) -> int:
        with store.link() as link:
            meeting.wait(20)
            return deliver(store, link, event_id)

    with ThreadPoolExecutor(3) as pool, store.link() as link:
        for number in range(ROUNDS):
            run_id, first, second = f"r{number}", f"a{number}", f"b{number}"
            driver.start(run_id)
            driver.one_pass(run_id)
            for event_id in (first, second):
                emitted(store, link, event_id, payload=event_id)
            store.dispatched(link, first, None)  # else the second one would leave the wait to it
            take_back_dispatch(store, link, first)
            tries = [(by_emit, first), (by_dispatch, first), (by_emit, second)]
            woken = [future.result(60) for future in [pool.submit(by, event_id) for by, event_id in tries]]

            assert sum(woken) == 1, woken
            assert driver.one_pass(run_id) == Finished(second if woken[2] else first)
            store.dispatched(link, second, None)
        assert sorted(takers(store, link)) == sorted(f"r{number}" for number in range(ROUNDS))


def test_of_two_emits_at_once_one_answers(racing: Store) -> None:
    store, meeting = racing, threading.Barrier(2)

    def body() -> Any:
        run = current_pass.get()
        assert run is not None
        # A key for each: a run may begin in the very millisecond of SQLite's clock in which those before were emitted.
        return step.wait_for_event("paid", key=run.run_id).payload

    def by_emit(event_id: str, key: str) -> bool:
        with store.link() as link:
            event = new_event(event_id, "paid", event_id, key, max_payload=1000)
            meeting.wait(20)
            found = store.emit_answering(link, event, answer_text, SECOND)
            assert found.is_new
            return (found.woken if found.has_looked else answer(store, link, event_id, key)) is not None

    driver = Driver(store, body)

    with ThreadPoolExecutor(2) as pool, store.link() as link:
        for number in range(ROUNDS):
            run_id, events = f"r{number}", [f"a{number}", f"b{number}"]
            driver.start(run_id)
            driver.one_pass(run_id)
            tries = [pool.submit(by_emit, event_id, run_id) for event_id in events]
            answered = [future.result(60) for future in tries]

            assert sum(answered) == 1 or (not any(answered) and "serializable" in str(store.engine.url)), answered
            if not any(answered):  # the one that had the lock was not serializable, and came behind the other then
                answered = [deliver(store, link, event_id) == 1 for event_id in events]
            assert driver.one_pass(run_id) == Finished(events[answered.index(True)])
            for event_id in events:
                store.dispatched(link, event_id, None)
        assert sorted(takers(store, link)) == sorted(f"r{number}" for number in range(ROUNDS))
