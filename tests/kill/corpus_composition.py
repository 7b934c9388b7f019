"""More shapes of workflows to be killed: branches that are at work at once, runs that call others, and cancelling."""

from __future__ import annotations

import time
from typing import Any

from celery_durable import Retry, step

from .corpus import AT_ONCE, CORPUS, LATER, Notes, insert, key, shape, work

__all__ = ["CORPUS"]

A_WHILE = 0.2
"""Seconds that are longer than anything else takes here."""


def slowly(name: str, value: Any = None, seconds: float = A_WHILE) -> Any:
    Notes.write(name)
    time.sleep(seconds)
    return value


def flaky(name: str, attempts: int) -> int:
    attempt = step.current().attempt
    Notes.write(f"{name}-{attempt}")
    if attempt < attempts:
        raise ConnectionError(f"attempt {attempt}")
    return attempt


def square(number: int) -> int:
    Notes.write(f"square-{number}")
    time.sleep(0.003 * number)
    return number * number


# -- Blocks


@shape(branches=4)
def fan_out() -> Any:
    with step.parallel() as p:
        parts = [p.run(f"part-{number}", slowly, f"part-{number}", number, 0.01 * number) for number in range(4)]
    return step.run("sum", work, "sum", sum(part.result() for part in parts))


@shape(branches=5)
def fan_out_retries() -> Any:
    with step.parallel() as p:
        later = [p.options(retry=LATER).run(f"later-{number}", flaky, f"later-{number}", 3) for number in range(2)]
        soon = [p.options(retry=AT_ONCE).run(f"soon-{number}", flaky, f"soon-{number}", 3) for number in range(2)]
        steady = p.run("steady", work, "steady", 0)
    return [future.result() for future in (*later, *soon, steady)]


@shape(branches=3, loose=["nap"])
def fan_out_failing() -> Any:
    try:
        with step.parallel() as p:
            p.run("first", slowly, "first", 1, 0.03)
            p.options(retry=Retry(max_attempts=1)).run("fails", flaky, "fails", 2)
            p.sleep("nap", "1h")
    except ConnectionError as error:
        step.run("after", work, "after", str(error))
        return str(error)
    raise AssertionError("not reached")


# Who wins a race is a matter of time: a database that blinks lets the slow one win. What follows is the same.
@shape(branches=6, loose=["slow", "quick"])
def nested() -> Any:
    with step.parallel() as p:
        first = p.run("first", work, "first", 1)
        with p.race() as r:
            r.run("slow", slowly, "slow", "slow")
            r.run("quick", work, "quick", "quick")
        squares = p.map("squares", square, [1, 2, 3], limit=2)
    assert r.winner is not None
    return [first.result(), r.winner.result() in ("slow", "quick"), squares.result()]


@shape(branches=2, loose=["slow", "quick"])
def race_of_functions() -> Any:
    with step.race() as r:
        r.run("slow", slowly, "slow", "slow")
        r.run("quick", work, "quick", "quick")
    assert r.winner is not None
    return step.run("after", work, "after", r.winner.result() in ("slow", "quick"))


@shape(free=["outside"])
def race_that_an_event_wins() -> Any:
    with step.race() as r:
        event = r.wait_for_event("outside", key=key())
        r.sleep("nap", "1h")
    step.run("after", work, "after")
    found = event.result()
    return [r.winner is event, found and found.payload]


@shape(free=["never"])
def race_that_a_sleep_wins() -> Any:
    with step.race() as r:
        r.wait_for_event("never", key=key())
        nap = r.sleep("nap", "1h")
    step.run("after", work, "after")
    return r.winner is nap


@shape(branches=3)
def map_with_a_limit() -> Any:
    return step.map("squares", square, range(5), limit=2)


@shape(branches=1, free=["outside"])
def parallel_of_all_kinds() -> Any:
    with step.parallel() as p:
        nap = p.sleep("nap", "1h")
        event = p.wait_for_event("outside", key=key())
        value = p.run("value", work, "value", 7)
    found = event.result()
    return [nap.result(), found and found.payload, step.run("after", work, "after", value.result())]


# -- Calls


def child(number: int) -> int:
    first = step.run("first", work, "first", number)
    step.sleep("nap", "1h")
    return step.run("second", work, "second", first + 1)


def failing_child() -> None:
    step.run("before", work, "before")
    raise LookupError("nothing there")


def middle(number: int) -> int:
    found = step.call("below", ("child", number))
    return step.run("twice", work, "twice", found * 2)


@shape(children={"child": child})
def call_of_a_child() -> Any:
    step.run("before", work, "before")
    found = step.call("call", ("child", 1))
    return step.run("after", work, "after", found)


@shape(children={"child": child})
def two_calls_at_once() -> Any:
    with step.parallel() as p:
        calls = [p.call("one", ("child", 10)), p.call("two", ("child", 20))]
    return step.run("after", work, "after", [call.result() for call in calls])


@shape(branches=1, children={"child": child})
def call_beside_a_function() -> Any:
    with step.parallel() as p:
        call = p.call("call", ("child", 10))
        value = p.run("value", slowly, "value", 1, 0.01)
    return [call.result(), value.result()]


@shape(children={"middle": middle, "child": child})
def call_three_deep() -> Any:
    return step.call("call", ("middle", 1))


@shape(children={"failing_child": failing_child})
def call_that_fails() -> Any:
    try:
        step.call("call", "failing_child")
    except LookupError as error:
        return step.run("after", work, "after", str(error))


@shape(children={"failing_child": failing_child})
def call_that_fails_again() -> Any:
    try:
        step.options(retry=Retry(max_attempts=2, delay="1h", jitter=False)).call("call", "failing_child")
    except LookupError as error:
        return step.run("after", work, "after", str(error))


@shape(reported=True)
def call_of_an_ordinary_task() -> Any:
    found = step.call("call", ("plain_report", 1))
    return step.run("after", work, "after", found)


# -- Cancelling


def waiting_child() -> None:
    try:
        step.wait_for_event("never", key=key())
    finally:
        step.run("tidy below", work, "tidy-below")
        step.sleep("calm below", "1h")
        step.run("tidy more below", work, "tidy-more-below")


@shape(cancelled=True, free=["never"])
def cancelled_run() -> Any:
    step.run("before", work, "before")
    try:
        step.wait_for_event("never", key=key())
    finally:
        step.run("tidy", work, "tidy")
        step.sleep("calm", "1h")
        step.transaction("book", insert, "book")


@shape(cancelled=True, free=["never"], children={"waiting_child": waiting_child})
def cancelled_with_its_calls() -> Any:
    try:
        with step.parallel() as p:
            p.call("call", "waiting_child")
            p.call("task", "plain_never")
            p.wait_for_event("never", key=key())
    finally:
        step.run("tidy", work, "tidy")
