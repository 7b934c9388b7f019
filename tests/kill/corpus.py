"""Shapes of workflows to be killed. What they do outside the record is noted, to be counted afterwards."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from sqlalchemy import text

from celery_durable import EventTimeout, NonRetryable, Retry, StepInterrupted, step
from celery_durable.core.duration import SECOND
from celery_durable.engine.control import RunRetry
from celery_durable.engine.current import current_pass

__all__ = ["AT_ONCE", "CORPUS", "LATER", "Notes", "Shape", "insert", "key", "shape", "work"]


class Notes:
    """Effects outside the database, one line each in a file of the run's, appended: a kill loses none."""

    folder = Path()

    @classmethod
    def write(cls, effect: str) -> None:
        run = current_pass.get()
        assert run is not None
        file = os.open(cls.folder / run.run_id, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{effect}\n".encode())
        os.close(file)

    @classmethod
    def of(cls, run_id: str) -> Counter[str]:
        path = cls.folder / run_id
        return Counter(path.read_text().split() if path.exists() else [])


@dataclass(frozen=True)
class Shape:
    """One workflow."""

    body: Callable[[], Any]
    free: frozenset[str] = frozenset()
    """Steps whose values are others in every run."""
    once: frozenset[str] = field(default_factory=frozenset)
    """Steps that run at most once; a kill may leave them interrupted, and their effect out."""
    loose: frozenset[str] = frozenset()
    """Steps that nobody waits for, and their effects: they may be there or not."""
    branches: int = 0
    """How many functions are at work at once: who ends first is another one in every run."""
    children: dict[str, Callable[..., Any]] = field(default_factory=dict, hash=False)
    """The bodies of what is called, by their names."""
    reported: bool = False
    """It calls ordinary tasks, whose ends are reported."""
    cancelled: bool = False
    """It is cancelled once it waits for what does not come."""

    @property
    def name(self) -> str:
        return self.body.__name__


CORPUS: list[Shape] = []


def shape(**values: Any) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def add(body: Callable[[], Any]) -> Callable[[], Any]:
        names = {name: frozenset(value) for name, value in values.items() if isinstance(value, list)}
        CORPUS.append(Shape(body, **values | names))
        return body

    return add


LATER = Retry(max_attempts=3, delay="1h", jitter=False)
AT_ONCE = Retry(max_attempts=3, delay=0)


def work(name: str, value: Any = None) -> Any:
    Notes.write(name)
    return value


def insert(session: Any, name: str) -> int:
    run = current_pass.get()
    assert run is not None
    session.execute(text("INSERT INTO effects VALUES (:run_id, :name)"), {"run_id": run.run_id, "name": name})
    Notes.write(name)
    return len(name)


# -- The shapes


@shape()
def plain() -> Any:
    first = step.run("first", work, "first", 1)
    second = step.run("second", work, "second", {"before": first})
    return step.run("third", work, "third", [first, second])


@shape()
def step_retries() -> Any:
    def flaky(name: str) -> int:
        Notes.write(f"{name}-{step.current().attempt}")
        if step.current().attempt < 3:
            raise ConnectionError(f"attempt {step.current().attempt}")
        return step.current().attempt

    parked = step.options(retry=LATER).run("parked", flaky, "parked")
    at_once = step.options(retry=AT_ONCE).run("at-once", flaky, "at-once")
    return [parked, at_once]


@shape()
def sleeps() -> Any:
    step.run("before", work, "before")
    step.sleep("nap", "1h")
    step.sleep("2h")
    step.sleep_until("long ago", 0)
    step.sleep("none", 0)
    step.sleep_until("some day", datetime.now(timezone.utc).replace(microsecond=0) + timedelta(days=400))
    return step.run("after", work, "after", "awake")


CORPUS[-1] = Shape(sleeps, free=frozenset({"some day"}))


@shape()
def transaction() -> Any:
    first = step.transaction("debit", insert, "debit")
    step.run("between", work, "between")
    second = step.transaction("credit", insert, "credit")
    return first + second


@shape()
def transaction_retried() -> Any:
    def unsure(session: Any, name: str) -> int:
        insert(session, f"{name}-{step.current().attempt}")
        if step.current().attempt < 2:
            raise ConnectionError("rolled back")
        return step.current().attempt

    def never(session: Any) -> None:
        insert(session, "never")
        raise NonRetryable("rolled back")

    found: list[Any] = [step.options(retry=LATER).transaction("parked", unsure, "parked")]
    found.append(step.options(retry=AT_ONCE).transaction("at-once", unsure, "at-once"))
    try:
        step.transaction("never", never)
    except NonRetryable as error:
        found.append(str(error))
    return found


@shape(once=["pay", "book", "broken"])
def at_most_once() -> Any:
    def broken() -> None:
        Notes.write("broken")
        raise ValueError("no")

    careful = step.options(at_most_once=True)
    found: list[Any] = []
    for call in (
        lambda: careful.run("pay", work, "pay", 1),
        lambda: careful.transaction("book", insert, "book"),
        lambda: careful.run("broken", broken),
    ):
        try:
            found.append(call())
        except StepInterrupted:
            found.append("interrupted")
        except ValueError as error:
            found.append(str(error))
    step.run("after", work, "after")
    return found


@shape()
def caught_error() -> Any:
    def refuse() -> None:
        Notes.write("refuse")
        raise NonRetryable("out of stock")

    try:
        step.run("order", refuse)
    except NonRetryable as error:
        reason = str(error)
        step.run("refund", work, "refund", reason)
        step.sleep("calm", "1h")
        return {"refused": reason, "notes": len(error.__notes__)}
    raise AssertionError("not reached")


@shape()
def loop() -> Any:
    total = 0
    for index in range(5):
        total += step.run(f"item-{index}", work, f"item-{index}", index)
        if index == 2:
            step.sleep(f"pause-{index}", "1h")
    return total


@step
def fetch(name: str) -> str:
    Notes.write(f"fetch-{name}")
    return name.upper()


@step(retry=LATER)
def combine(*names: str) -> str:
    Notes.write("combine")
    return "+".join(fetch.__wrapped__(name) for name in names)


def gather(names: list[str]) -> list[str]:
    return [fetch(name) for name in names]


@shape()
def helpers() -> Any:
    found = gather(["a", "b"])
    step.sleep("1h")
    found += gather(["c"])
    return combine(*found)


@shape()
def large_values() -> Any:
    first = step.run("large", work, "large", "x" * 300_000)
    second = step.run("hand over", lambda value: work("hand-over", value[::-1]), first)
    step.sleep("nap", "1h")
    return second == first


@shape(free=["now", "random", "uuid4", "seen", "now#2"])
def values() -> Any:
    when, number, key = step.now(), step.random(), step.uuid4()
    asked = [when, number, key]
    seen = step.run("seen", work, "seen", asked)
    step.sleep("nap", "1h")
    return [seen == asked, step.now() >= when]


@shape()
def run_retry() -> Any:
    run = current_pass.get()
    assert run is not None
    retries = run.claim.retries

    def fails_until_retried() -> int:
        Notes.write(f"fails-{retries}")
        if retries < 2:
            raise ConnectionError(f"retry {retries}")
        return retries

    step.run("before", work, "before")
    try:
        found = step.options(retry=Retry(max_attempts=1)).run("fails", fails_until_retried)
    except ConnectionError as error:
        raise RunRetry(error, 3_600 * SECOND) from error
    return [found, step.run("after", work, "after", "kept")]


@shape()
def heartbeat() -> Any:
    def long() -> int:
        context = step.current()
        for index in range(context.last_heartbeat or 0, 4):
            Notes.write(f"part-{index}")
            context.heartbeat(index + 1)
        return 4

    def long_and_flaky() -> Any:
        context = step.current()
        if context.attempt == 1:
            context.heartbeat("first")
            raise ConnectionError("again")
        return context.last_heartbeat

    return [step.run("long", long), step.options(retry=LATER).run("flaky", long_and_flaky)]


class Client:
    def __init__(self) -> None:
        self.chat = self

    def post(self, message: str) -> str:
        return work(f"post-{message}", message)


@shape()
def wrap() -> Any:
    client = step.wrap("client", Client())
    found = [client.post("a"), client.chat.post("b")]
    step.sleep("nap", "1h")
    return [*found, client.post("c")]


class Charge(BaseModel):
    id: str
    amount: Decimal
    tags: set[str]


def charge(given: Charge) -> Charge:
    Notes.write(f"charge-{given.amount}")
    return Charge(id=given.id, amount=given.amount * 2, tags=given.tags | {"charged"})


@shape()
def typed() -> Any:
    one = step.run("one", charge, Charge(id="c", amount=Decimal("1.50"), tags={"b", "a"}))
    step.sleep("nap", "1h")
    two = step.run("two", charge, one)
    return [str(two.amount), sorted(two.tags)]


@shape()
def clean_up() -> Any:
    try:
        try:
            step.sleep("nap", "1h")
            step.run("work", work, "work")
        except BaseException:
            step.run("never", work, "never")
            raise
        finally:
            step.run("tidy", work, "tidy")
    finally:
        step.transaction("book", insert, "book")
    return "clean"


@shape()
def failing() -> Any:
    step.run("before", work, "before")
    step.sleep("nap", "1h")
    raise LookupError("nothing there")


# -- Events. Each run has its own, by its key.


def key() -> str:
    run = current_pass.get()
    assert run is not None
    return run.run_id


@shape(free=["one", "two", "first", "second", "poll", "gone"])
def events_before_the_wait() -> Any:
    one = step.emit("one", "paid", {"n": 1}, key=key())
    step.sleep("nap", "1h")
    two = step.emit("two", "paid", {"n": 2}, key=key())
    first = step.wait_for_event("first", "paid", key=key())
    second = step.wait_for_event("second", "paid", key=key(), match={"n": 2})
    poll = step.wait_for_event("poll", "paid", key=key(), timeout=0)
    gone = step.wait_for_event("gone", "paid", key=key(), timeout="1h")
    assert first is not None
    assert second is not None
    assert (first.id, second.id) == (one, two)
    return [first.payload, second.payload, poll, gone]


@shape(free=["outside", "again"])
def event_from_outside() -> Any:
    step.run("before", work, "before")
    event = step.wait_for_event("outside", key=key())
    again = step.wait_for_event("again", "outside", key=key(), timeout="1h")
    assert event is not None
    return [step.run("after", work, "after", event.payload), again]


@shape(free=["in-time"])
def event_timeout() -> Any:
    try:
        step.wait_for_event("in-time", "never", key=key(), timeout="1h", on_timeout="fail")
    except EventTimeout:
        return step.run("late", work, "late", "too late")


@shape(free=["in-time"])
def cancelled_by_timeout() -> Any:
    try:
        step.wait_for_event("in-time", "never", key=key(), timeout="1h", on_timeout="cancel")
    finally:
        step.run("tidy", work, "tidy")
        step.sleep("calm", "1h")
        step.run("tidy more", work, "tidy-more")
