"""Races; and that a replay sees of a block what the first pass saw, wherever a worker died in between."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from celery_durable import Retry, StepInterrupted, step
from celery_durable.engine.executor import Cancelled, Failed, Finished, Parked
from celery_durable.engine.passing import Pass
from celery_durable.errors import StepCancelled
from celery_durable.store.records import Claim, Fence
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
from .test_errors import Died
from .test_events import dispatch, emit, rows


def died(driver: Driver) -> None:
    """The sweeper has found out that the run's worker is dead."""
    with driver.store.link() as link:
        assert driver.store.recover(link, Fence("r1", driver.run()["token"]))


def places(driver: Driver) -> list[str]:
    """The steps in the order in which the body was given their answers."""
    seen = {name: row["seen"] for name, row in driver.steps().items() if row["seen"]}
    return sorted(seen, key=lambda name: seen[name])


# -- A race


def test_a_race_against_time(store: Store, started: Started) -> None:
    seen: list[Any] = []

    def body() -> str:
        with step.race() as r:
            approved = r.wait_for_event("approved")
            nudge = r.sleep("nudge", "1d")
        assert r.winner in (approved, nudge)
        seen.append((approved.cancelled(), nudge.cancelled()))
        step.sleep("nap", "1h")
        return r.winner.id if r.winner is not None else ""

    for number, answer in enumerate(["approved", "nudge"]):
        run_id = f"run-{number}"
        driver = Driver(store, body)
        driver.start(run_id)
        parked = driver.one_pass(run_id)
        assert isinstance(parked, Parked)
        assert parked.waiting_on == "2 branches: the event 'approved'; the sleep 'nudge' (1d)"
        if answer == "approved":
            assert dispatch(store, emit(store, "approved")) == [run_id]
        else:
            driver.let_time_pass(run_id)
        driver.one_pass(run_id)
        assert rows(store, "wait") == []
        dispatch(store, emit(store, "approved"))
        driver.let_time_pass(run_id)
        assert driver.value(run_id) == answer
        assert seen == [(number == 1, number == 0)] * 2
        seen.clear()


def test_the_losers_of_a_race_are_not_waited_for(started: Started) -> None:
    let_go = threading.Event()
    seen: list[str] = []

    def slow() -> str:
        wait_until(lambda: has_ended("quick"))
        let_go.wait(60)
        try:
            step.current().heartbeat(1)
        except StepCancelled as error:
            seen.append(str(error))
        return "too late"

    def body() -> list[Any]:
        with step.race() as r:
            quick, late = r.run("quick", str, "first"), r.run("slow", slow)
        step.sleep("nap", "1h")
        return [r.winner is quick, quick.result(), late.cancelled()]

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    let_go.set()
    wait_until(lambda: has_ended("slow"))
    assert len(seen) == 1
    assert seen[0].startswith("step 'slow' of run r1 was cancelled")
    driver.let_time_pass()
    assert driver.value() == [True, "first", True]
    assert (len(seen), list(driver.steps())) == (1, ["quick", "nap"])


def test_a_loser_that_had_sent_a_heartbeat(started: Started) -> None:
    let_go, beaten = threading.Event(), threading.Event()

    def slow() -> None:
        step.current().heartbeat(1)
        beaten.set()
        let_go.wait(60)

    def body() -> str:
        with step.race() as r:
            r.run("quick", beaten.wait, 20)
            late = r.run("slow", slow)
        step.sleep("nap", "1h")
        return outcome(late)

    driver = started(body)
    try:
        driver.one_pass()
    finally:
        let_go.set()
        wait_until(lambda: has_ended("slow"))
    assert statuses(driver)["slow"] == "cancelled"
    driver.let_time_pass()
    assert driver.value() == "cancelled"
    assert statuses(driver)["slow"] == "cancelled"
    check_nothing_dangles(driver)


def test_a_failure_wins_too(started: Started) -> None:
    def body() -> str:
        with step.options(retry=ONCE).race() as r:
            r.run("bad", fail, "the winner's")
            r.sleep("s", "1h")
        assert r.winner is not None
        step.sleep("nap", "1h")
        return r.winner.result()

    driver = started(body)
    ended = driver.finish()
    assert isinstance(ended, Failed)
    assert str(ended.error) == "the winner's"
    check_nothing_dangles(driver)


def test_an_attempt_that_is_tried_again_has_not_ended(started: Started) -> None:
    tried: list[int] = []

    def flaky() -> str:
        tried.append(1)
        return "second" if len(tried) == 2 else fail()

    def body() -> Any:
        with step.options(retry=Retry(delay="1h", jitter=False)).race() as r:
            r.run("flaky", flaky)
            r.wait_for_event("w")
        assert r.winner is not None
        return r.winner.result()

    driver = started(body)
    parked = driver.one_pass()
    assert isinstance(parked, Parked)
    assert statuses(driver) == {"flaky": "waiting", "w": "waiting"}
    driver.let_time_pass()
    assert driver.value() == "second"
    check_nothing_dangles(driver)


def test_a_race_of_children(store: Store, started: Started) -> None:
    def body() -> list[Any]:
        with step.race() as r:
            a, b, c = (r.call(name, "child") for name in "abc")
        assert r.winner is not None
        return [r.winner.id, b.result(), outcome(a), outcome(c)]

    driver = started(body)
    driver.one_pass()
    children = {name: child_of(driver, name) for name in "abc"}
    assert isinstance(Driver(store, lambda: step.sleep("nap", "1h")).one_pass(children["a"]), Parked)
    end_child(driver, "b", lambda: "fast")
    assert driver.value() == ["b", "fast", "cancelled", "cancelled"]
    runs = {name: driver.run(child) for name, child in children.items()}
    assert (runs["a"]["status"], runs["c"]["status"]) == ("suspended", "cancelled")
    assert runs["a"]["cancelling"]
    assert sorted(driver.dispatcher.followed.wake) == sorted([*children.values(), children["a"], children["c"]])
    assert isinstance(Driver(store, lambda: step.sleep("nap", "1h")).one_pass(children["a"]), Cancelled)
    check_nothing_dangles(driver)


@pytest.mark.parametrize("order", ["abc", "cba", "bca"])
def test_the_first_of_those_that_came_while_the_run_was_parked(store: Store, started: Started, order: str) -> None:
    def body() -> Any:
        with step.race() as r:
            for name in "abc":
                r.wait_for_event(name)
        step.sleep("nap", "1h")
        return r.winner and r.winner.id

    driver = started(body)
    driver.one_pass()
    for name in order:
        dispatch(store, emit(store, name))
    assert isinstance(driver.one_pass(), Parked)
    driver.let_time_pass()
    assert driver.value() == order[0]
    check_nothing_dangles(driver)


def test_an_event_that_is_there_wins_at_once(store: Store, started: Started) -> None:
    def body() -> Any:
        with step.race() as r:
            r.sleep("s", "1h")
            r.wait_for_event("a")
        return r.winner and r.winner.result().payload

    driver = started(body)
    emit(store, "a", "early")
    assert driver.one_pass() == Finished("early")
    check_nothing_dangles(driver)


def test_a_race_with_a_limit(started: Started) -> None:
    calls: list[str] = []

    def body() -> Any:
        with step.race(limit=1) as r:
            r.run("a", calls.append, "a")
            b = r.run("b", calls.append, "b")
        return [r.winner and r.winner.id, b.cancelled()]

    assert started(body).value() == ["a", True]
    assert calls == ["a"]


def test_a_parallel_block_wins_a_race(started: Started) -> None:
    """It ends with its last branch, and is given up as a whole when it loses."""

    def body() -> list[Any]:
        with step.race() as r:
            with r.parallel() as both:
                futures = [both.run("a", int), both.sleep("b", "1h")]
            other = r.sleep("c", "2h")
        first = [r.winner is not None, outcome(other), *map(outcome, futures)]
        with step.race() as r:
            with r.parallel() as both:
                futures = [both.run("d", int), both.wait_for_event("e")]
            other = r.sleep("f", "1h")
        return [*first, r.winner is other, *map(outcome, futures)]

    driver = started(body)
    driver.one_pass()
    assert statuses(driver) == {"a": "completed", "b": "waiting", "c": "waiting"}
    time_is_up(driver, "b")
    driver.one_pass()
    time_is_up(driver, "f")
    assert driver.value() == [True, "cancelled", "completed", "completed", True, "completed", "cancelled"]
    check_nothing_dangles(driver)


def test_the_function_that_loses_an_inner_race_is_not_waited_for(started: Started) -> None:
    let_go = threading.Event()
    waited: list[bool] = []

    def body() -> str:
        with step.parallel() as p, p.race() as r:
            r.run("quick", int)
            late = r.run("slow", lambda: waited.append(let_go.wait(3)))
        return outcome(late)

    driver = started(body)
    try:
        assert driver.value() == "cancelled"
        assert waited == []
    finally:
        let_go.set()
        wait_until(lambda: has_ended("slow"))


# -- A replay sees the same


def test_the_order_of_the_answers_is_kept(store: Store, started: Started) -> None:
    seen: list[Any] = []
    together = threading.Barrier(3, timeout=20)

    def after(other: str) -> None:
        together.wait()
        wait_until(lambda: has_ended(other))

    def body() -> None:
        with step.parallel() as p:
            p.run("third", after, "second")
            p.run("second", after, "first")
            p.run("first", after, "")
            p.wait_for_event("fifth")
            p.wait_for_event("fourth")
            p.sleep("sixth", "1h")
        seen.append(places(driver))
        step.sleep("nap", "1h")
        step.run("last", int)

    driver = started(body)
    driver.one_pass()
    for name in ("fourth", "fifth"):
        dispatch(store, emit(store, name))
    driver.let_time_pass()
    driver.one_pass()
    order = ["first", "second", "third", "fourth", "fifth", "sixth"]
    assert places(driver) == order
    driver.let_time_pass()
    assert driver.value() is None
    assert places(driver) == [*order, "last"]
    assert seen[1] == order


def test_what_comes_after_a_race_does_not_change_it(store: Store, started: Started) -> None:
    """Nor does a race whose branches are asked for in another order after a deploy."""
    names = ["a", "b"]

    def body() -> Any:
        with step.race() as r:
            for name in names:
                r.wait_for_event(name)
        step.sleep("nap", "1h")
        return r.winner and r.winner.id

    driver = started(body)
    driver.one_pass()
    dispatch(store, emit(store, "b"))
    driver.one_pass()
    dispatch(store, emit(store, "a"))
    names.reverse()
    driver.let_time_pass()
    assert driver.value() == "b"


def test_a_branch_that_is_new_in_a_block_that_was_over(started: Started) -> None:
    """A deploy adds one to a race that is won: it is not begun, and a parallel block does all that it lacks."""
    calls: list[str] = []
    names = ["a"]

    def body() -> list[Any]:
        with step.race() as r:
            raced = [r.run(f"r-{name}", calls.append, f"r-{name}") for name in names]
        step.sleep("nap", "1h")
        return [r.winner and r.winner.id, *map(outcome, raced)]

    driver = started(body)
    driver.one_pass()
    names.append("b")
    driver.let_time_pass()
    assert driver.value() == ["r-a", "completed", "cancelled"]
    assert calls == ["r-a"]


# -- A worker dies


def test_a_worker_that_dies_in_a_function(started: Started) -> None:
    calls: list[str] = []
    dies = [True]

    def call(name: str) -> str:
        calls.append(name)
        if name == "c" and dies:
            wait_until(lambda: statuses(driver).get("b") == "completed")
            raise Died
        return name

    def body() -> list[str]:
        with step.parallel() as p:
            futures = [p.run(name, call, name) for name in "abc"]
            p.call("d", "child")
        return [future.result() for future in futures]

    driver = started(body)
    with pytest.raises(Died):
        driver.one_pass()
    assert statuses(driver) == {"a": "completed", "b": "completed", "d": "waiting"}
    child = child_of(driver, "d")
    died(driver)
    dies.clear()
    assert isinstance(driver.one_pass(), Parked)
    assert (sorted(calls), child_of(driver, "d")) == (["a", "b", "c", "c"], child)
    end_child(driver, "d", lambda: None)
    assert driver.value() == ["a", "b", "c"]
    check_nothing_dangles(driver)


def test_branches_that_run_at_most_once(started: Started) -> None:
    calls: list[str] = []

    def call(name: str) -> str:
        calls.append(name)
        if name == "b":
            wait_until(lambda: statuses(driver).get("a") == "completed")
            raise Died
        return name

    def body() -> list[str]:
        with step.options(at_most_once=True).parallel(settle=True) as p:
            futures = [p.run(name, call, name) for name in "ab"]
        step.sleep("nap", "1h")
        return [type(future.exception()).__name__ for future in futures]

    driver = started(body)
    with pytest.raises(Died):
        driver.one_pass()
    assert statuses(driver) == {"a": "completed", "b": "started"}
    died(driver)
    driver.one_pass()
    driver.let_time_pass()
    assert driver.value() == ["NoneType", StepInterrupted.__name__]
    assert sorted(calls) == ["a", "b"]


def test_starts_are_recorded_before_anything_begins(started: Started) -> None:
    seen: list[Any] = []

    def body() -> None:
        with step.options(at_most_once=True).parallel() as p:
            for name in "ab":
                p.run(name, lambda: seen.append(sorted(driver.steps())))

    driver = started(body)
    assert driver.value() is None
    assert seen == [["a", "b"]] * 2


@pytest.mark.parametrize("policy", ["race", "parallel"])
def test_a_worker_that_dies_before_the_losers_are_given_up(
    store: Store, started: Started, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    seen: list[Any] = []

    def body() -> None:
        block: Any = step.options(retry=ONCE).race() if policy == "race" else step.options(retry=ONCE).parallel()
        try:
            with block:
                futures = [block.run("bad", fail), block.wait_for_event("w"), block.call("c", "child")]
        except ValueError:
            seen.append("raised")
        seen.append([outcome(future) for future in futures])
        step.sleep("nap", "1h")

    driver = started(body)
    with monkeypatch.context() as patched:
        patched.setattr(Pass, "withdraw", lambda *_: (_ for _ in ()).throw(Died))
        with pytest.raises(Died):
            driver.one_pass()
    assert statuses(driver) == {"bad": "failed", "w": "waiting", "c": "waiting"}
    dispatch(store, emit(store, "w"))  # too late: the block was over
    died(driver)
    driver.one_pass()
    driver.let_time_pass()
    assert driver.value() is None
    assert seen == [*(["raised"] if policy == "parallel" else []), ["ValueError", "completed", "cancelled"]] * 2
    check_nothing_dangles(driver)


def test_a_worker_that_dies_before_the_end_of_a_failed_block_is_recorded(started: Started) -> None:
    """The failure and what was at work beside it are recorded together: without it the block is done again."""
    calls: list[str] = []
    dies = [True]

    def bad() -> None:
        calls.append("bad")
        fail()

    def beside() -> str:
        calls.append("beside")
        wait_until(lambda: has_ended("bad"))
        if dies:
            raise Died
        return "done"

    def body() -> list[str]:
        try:
            with step.options(retry=ONCE).parallel() as p:
                futures: list[Any] = [p.run("bad", bad), p.run("beside", beside)]
        except ValueError:
            step.sleep("nap", "1h")
            return [outcome(future) for future in futures]
        return []

    driver = started(body)
    with pytest.raises(Died):
        driver.one_pass()
    assert driver.steps() == {}
    died(driver)
    dies.clear()
    assert driver.value() == ["ValueError", "completed"]
    assert sorted(calls) == ["bad", "bad", "beside", "beside"]


def test_a_worker_that_dies_while_branches_wait(store: Store, started: Started) -> None:
    def body() -> list[Any]:
        with step.parallel() as p:
            waited, _ = p.wait_for_event("w"), p.sleep("s", "1h")
            called = p.call("c", "child")
        event = waited.result()
        return [event and event.payload, called.result()]

    driver = started(body)
    driver.one_pass()
    child = child_of(driver, "c")
    dispatch(store, emit(store, "w", 1))
    end_child(driver, "c", lambda: 2)
    driver.let_time_pass()
    with store.link() as link:
        claimed = store.claim(link, "r1", worker="dies", lease=driver.settings.lease)
        assert isinstance(claimed, Claim)
    died(driver)
    assert driver.value() == [1, 2]
    assert [run.id for run in rows(store, "run") if run.parent_id] == [child]
    check_nothing_dangles(driver)
