"""Blocks: policies, blocks in blocks, and workers that go. ``test_outcomes.py`` has the table of outcomes."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import text

from celery_durable import (
    step,
)
from celery_durable.engine.executor import Cancelled, Failed, Parked
from celery_durable.store.store import Store
from tests.waiting import wait_until

from .blocks import (
    ONCE,
    Started,
    check_nothing_dangles,
    child_of,
    end_child,
    fail,
    has_ended,
    outcome,
    statuses,
    time_is_up,
)
from .driving import Driver
from .test_events import dispatch, emit, rows

# -- What a block gives


def introduce(name: str, *, age: int) -> tuple[str, int]:
    return name, age


def test_kinds_mix_freely(store: Store, started: Started) -> None:
    seen: list[Any] = []

    def body() -> list[Any]:
        with step.parallel() as p:
            futures: list[Any] = [
                p.run("user", introduce, "Ann", age=7),
                p.call("fraud", ("child", 5)),
                p.wait_for_event("ok", key="o1", timeout="1h"),
                p.sleep("pause", "1m"),
                p.sleep("5m"),
                p.sleep_until("then", 0),
                p.emit("tell", "told", {"a": 1}),
                p.transaction("write", lambda session: session.execute(text("SELECT 3")).scalar_one()),
                p.map("each", str, [1, 2]),
            ]
        seen.append([future.id for future in futures])
        found = [future.result() for future in futures]
        return [*found[:2], found[2].payload, *found[3:6], found[6] == rows(store, "event")[0].id, *found[7:]]

    driver = started(body)
    parked = driver.one_pass()
    assert isinstance(parked, Parked)
    assert parked.waiting_on.startswith("4 branches: ")
    end_child(driver, "fraud", lambda: "fine")
    dispatch(store, emit(store, "ok", "yes", key="o1"))
    assert driver.value() == [("Ann", 7), "fine", "yes", None, None, None, True, 3, ["1", "2"]]
    ids = ["user", "fraud", "ok", "pause", "sleep", "then", "tell", "write", "each"]
    assert seen == [ids]
    assert list(driver.steps()) == [*ids[:-1], "each[0]", "each[1]"]
    check_nothing_dangles(driver)


def test_functions_of_a_block_run_at_once(started: Started) -> None:
    together = threading.Barrier(5, timeout=20)

    def body() -> int:
        with step.parallel() as p:
            futures = [p.run(f"{number}", lambda: together.wait() and 0) for number in range(5)]
        return sum(future.result() for future in futures)

    assert started(body).value() == 0


def test_an_empty_block_is_over(started: Started) -> None:
    def body() -> list[Any]:
        with step.parallel(min_done=3) as p:
            pass
        with step.race() as r:
            pass
        return [r.winner, repr(p), repr(r)]

    assert started(body).value() == [None, "<step.parallel of 0 branches>", "<step.race of 0 branches>"]


def test_the_error_is_the_steps_own_and_names_the_others(started: Started) -> None:
    def body() -> Any:
        with step.options(retry=ONCE).parallel(max_failed=2) as p:
            for name in "abc":
                p.run(name, one_after_the_other, name)

    def one_after_the_other(name: str) -> None:
        if name != "a":
            wait_until(lambda: has_ended(chr(ord(name) - 1)))
        fail(name)

    driver = started(body)
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert type(ended.error) is ValueError
    assert str(ended.error) == "c"
    assert ended.error.__notes__ == [
        "celery_durable: step 'c' of run r1 failed",
        "celery_durable: in the same block failed before: 'a', 'b'",
    ]


def test_settled_futures_tell(started: Started) -> None:
    seen: list[Any] = []

    def body() -> None:
        with step.options(retry=ONCE).parallel(settle=True) as p:
            good, bad = p.run("good", int, "7"), p.run("bad", int, "seven")
        seen.append((good.result(), good.exception(), type(bad.exception()), bad.cancelled(), repr(good), repr(bad)))
        with pytest.raises(ValueError, match="seven"):
            bad.result()
        step.sleep("nap", "1h")

    assert started(body).value() is None
    assert seen == [(7, None, ValueError, False, "<Future of step 'good': done>", "<Future of step 'bad': done>")] * 2


def test_enough_are_done(started: Started) -> None:
    """Those that are at work are waited for, and recorded; the others are given up."""
    seen: list[Any] = []

    def body() -> None:
        with step.options(retry=ONCE).parallel(min_done=2) as p:
            futures = [p.run("bad", fail), *(p.run(f"{number}", int, number) for number in range(2)), p.sleep("s", 60)]
            futures.append(p.wait_for_event("w"))
        seen.append([outcome(future) for future in futures])
        step.sleep("nap", "1h")

    driver = started(body)
    assert driver.value() is None
    assert seen == [["ValueError", "completed", "completed", "cancelled", "cancelled"]] * 2
    check_nothing_dangles(driver)


def test_enough_can_not_be_reached_any_more(started: Started) -> None:
    def body() -> None:
        with step.options(retry=ONCE).parallel(min_done=2) as p:
            p.run("a", fail, "a")
            p.call("b", "child")
            p.wait_for_event("w")

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    end_child(driver, "b", lambda: fail("b"))
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert str(ended.error) == "b"
    assert "celery_durable: in the same block failed before: 'a'" in ended.error.__notes__
    check_nothing_dangles(driver)
    assert statuses(driver) == {"a": "failed", "b": "failed", "w": "cancelled"}


def test_a_body_that_catches_goes_on(started: Started) -> None:
    def body() -> str:
        try:
            with step.options(retry=ONCE).parallel() as p:
                p.run("bad", fail)
                p.call("child", "child")
        except ValueError as error:
            step.run("after", str, str(error))
            step.sleep("nap", "1h")
            return str(error)
        return "no error"

    driver = started(body)
    assert driver.value() == "no"
    (child,) = [run for run in rows(driver.store, "run") if run.parent_id]
    assert (child.status, child.id in driver.dispatcher.followed.wake) == ("cancelled", True)


def test_a_child_that_is_at_work_is_told(started: Started) -> None:
    """Its body can clean up, which takes its time: the block does not wait for that."""
    told: list[str] = []

    def child() -> None:
        try:
            step.sleep("nap", "1h")
        finally:
            step.run("undo", told.append, "undone")

    def body() -> None:
        with step.parallel() as p:
            p.call("child", "child")
            p.wait_for_event("w", timeout="1h", on_timeout="fail")

    driver = started(body)
    driver.one_pass()
    child_id, children = child_of(driver, "child"), Driver(driver.store, child)
    assert isinstance(children.one_pass(child_id), Parked)
    time_is_up(driver, "w")
    assert isinstance(driver.one_pass(), Failed)
    assert driver.run(child_id)["cancelling"].startswith("run r1 does not wait for it")
    assert child_id in driver.dispatcher.followed.wake
    check_nothing_dangles(driver)
    assert isinstance(children.one_pass(child_id), Cancelled)
    assert told == ["undone"]
    assert statuses(driver) == {"child": "cancelled", "w": "failed"}


def test_an_ordinary_task_that_nobody_waits_for_is_revoked(started: Started) -> None:
    def body() -> None:
        with step.race() as r:
            r.call("mail", "plain.mail")
            r.sleep("s", "1h")

    driver = started(body)
    driver.one_pass()
    task = child_of(driver, "mail")
    driver.let_time_pass()
    assert driver.value() is None
    assert driver.dispatcher.followed.revoke == (task,)
    check_nothing_dangles(driver)


def test_a_run_that_is_cancelled_in_a_block(started: Started) -> None:
    def body() -> str:
        with step.parallel(settle=True) as p:
            p.run("done", int)
            p.sleep("s", "1h")
            p.wait_for_event("w")
            p.call("c", "child")
        return "went on"

    driver = started(body)
    driver.one_pass()
    with driver.store.link() as link:
        assert driver.store.cancel(link, "r1", "a person")
    ended = driver.one_pass()
    assert isinstance(ended, Cancelled)
    assert ended.why == "a person"
    assert sorted(statuses(driver).values()) == ["cancelled", "cancelled", "completed", "failed"]
    check_nothing_dangles(driver)


# -- Blocks in blocks


def inner_fails(p: Any) -> list[Any]:
    """A branch, and a block as a branch: parallel, with one that fails."""
    with p.parallel() as inner:
        futures = [inner.options(retry=ONCE).run("bad", fail), inner.sleep("s", "1h")]
    return [p.wait_for_event("w"), *futures]


@pytest.mark.parametrize("settle", [False, True])
def test_a_block_that_fails_in_a_block(store: Store, started: Started, settle: bool) -> None:
    seen: list[Any] = []

    def body() -> None:
        futures: list[Any] = []
        try:
            with step.parallel(settle=settle) as p:
                futures = inner_fails(p)
        except ValueError:
            seen.append("raised")
        seen.append([outcome(future) for future in futures])
        step.sleep("nap", "1h")

    driver = started(body)
    driver.one_pass()
    if settle:
        assert (seen, driver.steps()["w"]["status"]) == ([], "waiting")
        dispatch(store, emit(store, "w"))
        driver.one_pass()
    driver.let_time_pass()
    assert driver.value() is None
    told: list[Any] = [["completed", "ValueError", "cancelled"]]
    assert seen == (told if settle else ["raised", ["cancelled", "ValueError", "cancelled"]]) * 2
    check_nothing_dangles(driver)


def test_a_settled_block_in_one_that_fails_fast(started: Started) -> None:
    def body() -> list[str]:
        with step.parallel() as p:
            with p.parallel(settle=True) as inner:
                inner.options(retry=ONCE).run("bad", fail)
                good = inner.run("good", int)
            other = p.sleep("s", "1h")
        return [outcome(good), outcome(other)]

    assert started(body).value() == ["completed", "completed"]


def test_a_race_in_a_block(store: Store, started: Started) -> None:
    seen: list[Any] = []

    def body() -> None:
        with step.parallel() as p:
            with p.race() as r:
                r.wait_for_event("approved")
                r.sleep("too-late", "1h")
            other = p.sleep("other", "2h")
        assert r.winner is not None
        seen.append((r.winner.id, other.done()))
        step.sleep("nap", "1h")

    driver = started(body)
    driver.one_pass()
    dispatch(store, emit(store, "approved"))
    assert isinstance(driver.one_pass(), Parked)
    driver.let_time_pass()
    assert driver.value() is None
    assert seen == [("approved", True)] * 2
    assert statuses(driver) == dict.fromkeys(["approved", "other", "nap"], "completed") | {"too-late": "cancelled"}


def test_the_losers_of_an_inner_race_are_given_up_with_the_race(store: Store, started: Started) -> None:
    """Not only with the block around it, which may go on for days."""

    def body() -> None:
        with step.parallel() as p:
            with p.race() as r:
                r.wait_for_event("a")
                r.wait_for_event("b")
                r.call("c", "child")
            p.sleep("days", "7d")

    driver = started(body)
    driver.one_pass()
    dispatch(store, emit(store, "a"))
    assert isinstance(driver.one_pass(), Parked)
    assert statuses(driver) == {"a": "completed", "b": "cancelled", "c": "cancelled", "days": "waiting"}
    assert rows(store, "wait") == []


def test_a_map_in_a_block(started: Started) -> None:
    def body() -> list[Any]:
        with step.parallel() as p:
            squares = p.map("squares", lambda n: n * n, range(3), limit=1)
            p.sleep("s", "1h")
        with step.options(retry=ONCE).parallel(settle=True) as p:
            numbers = p.map("numbers", int, ["1", "x"])
        return [squares.result(), squares.id, type(numbers.exception()).__name__]

    assert started(body).value() == [[0, 1, 4], "squares", "ValueError"]
