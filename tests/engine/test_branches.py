"""Blocks that are misused, and what the functions of a block have."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from sqlalchemy import text

from celery_durable import (
    DuplicateStep,
    DurableError,
    NotInDurableTask,
    NotSerializable,
    Retry,
    step,
)
from celery_durable.engine.executor import Failed, Gone, Parked
from celery_durable.store.store import Store
from tests.waiting import wait_until

from .blocks import (
    ONCE,
    Started,
    fail,
    has_ended,
    outcome,
    statuses,
)
from .test_events import rows
from .test_leaving import taken

# -- Misuse


def test_a_future_is_asked_after_its_block(started: Started) -> None:
    def body() -> list[Any]:
        said = []
        with step.parallel() as p:
            future = p.run("a", int)
            said += [future.done(), future.cancelled(), repr(future)]
            for ask in (future.result, future.exception):
                with pytest.raises(DurableError, match="the future of step 'a' was asked before the end of its block"):
                    ask()
        return [*said, future.result()]

    assert started(body).value() == [False, False, "<Future of step 'a': open>", 0]


def test_an_error_on_the_way_through_a_block_begins_nothing(started: Started) -> None:
    calls: list[str] = []

    def body() -> None:
        with step.parallel() as p:
            p.run("a", calls.append, "a")
            p.emit("e", "told")
            p.sleep("s", "1h")
            p.call("c", "child")
            fail("in the block")

    driver = started(body)
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert str(ended.error) == "in the block"
    assert (calls, driver.steps(), rows(driver.store, "event")) == ([], {}, [])
    assert len(rows(driver.store, "run")) == 1


@pytest.mark.parametrize(
    "use",
    [
        lambda p: (p.run("a", int), p.run("a", int)),
        lambda p: (p.run("a", int), p.sleep("a", 1)),
        lambda p: (p.map("a", int, [1]), p.run("a[0]", int)),
        lambda p: (p.run("a", int), step.run("a", int)),
    ],
)
def test_an_id_is_used_once(started: Started, use: Callable[[Any], Any]) -> None:
    def body() -> None:
        with step.parallel() as p:
            use(p)

    driver = started(body)
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, DuplicateStep)
    assert driver.steps() == {}


VERBS: dict[str, Callable[[], Any]] = {
    "step.run": lambda: step.run("b", int),
    "step.sleep": lambda: step.sleep("1h"),
    "step.parallel": lambda: step.parallel().__enter__(),
    "step.race": lambda: step.race().__enter__(),
    "step.map": lambda: step.map("m", int, []),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_inside_a_branch_is_refused(started: Started, verb: str) -> None:
    def body() -> Any:
        with step.parallel() as p:
            p.run("outer", VERBS[verb])

    ended = started(body).one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, NotInDurableTask)
    assert f"{verb} was called inside the step 'outer'" in str(ended.error)


def test_a_verb_of_the_block_inside_a_branch_is_refused(started: Started) -> None:
    def body() -> Any:
        with step.parallel() as p:
            p.run("outer", lambda: p.run("inner", int).id)

    driver = started(body)
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, NotInDurableTask)
    assert list(driver.steps()) == ["outer"]


@pytest.mark.parametrize("verb", ["step.parallel", "step.race", "step.map"])
def test_a_block_outside_a_run_says_what_to_do(verb: str) -> None:
    with pytest.raises(NotInDurableTask, match=f"{verb} was called in <lambda>.*base=DurableTask"):
        VERBS[verb]()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"limit": 0}, "limit=0: a whole number from 1 on"), ({"limit": True}, "limit=True"),
        ({"limit": 1.5}, "limit=1.5"), ({"min_done": 0}, "min_done=0: a whole number from 1 on"),
        ({"max_failed": -1}, "max_failed=-1: a whole number from 0 on"), ({"max_failed": "1"}, "max_failed='1'"),
    ],
)  # fmt: skip
def test_policies_that_make_no_sense(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        step.parallel(**options)


async def later() -> int:
    return 1


@pytest.mark.parametrize("fn", [later, object, lambda: {"a": [object()]}])
def test_values_that_can_not_be_stored(started: Started, fn: Any) -> None:
    def body() -> list[str]:
        with step.parallel(settle=True) as p:
            bad, good = p.run("bad", fn), p.run("good", int)
        said = str(bad.exception())
        assert isinstance(bad.exception(), NotSerializable)
        assert "step 'bad'" in said
        assert (fn is not later) or "is async, and this task is not" in said
        return [outcome(good), f"{driver.steps()['bad']['attempts']}"]

    driver = started(body)
    assert driver.value() == ["completed", "1"]


def test_the_input_is_encoded_where_the_branch_is_asked_for(started: Started) -> None:
    """A value that can't be stored is refused at its line, and what is done to one later does not reach the branch."""
    given = [1]

    def body() -> list[int]:
        with step.parallel() as p:
            with pytest.raises(NotSerializable):
                p.run("bad", str, object())
            future = p.run("good", lambda numbers: numbers, given)
            given.append(2)
        return future.result()

    assert started(body).value() == [1]


# -- What functions of a block have


def test_options_of_a_block_are_those_of_its_branches(started: Started) -> None:
    tried: list[str] = []
    let_go = threading.Event()

    def body() -> list[str]:
        with step.options(retry=Retry(max_attempts=2, delay="1h"), timeout=1.0).parallel(settle=True) as p:
            futures: list[Any] = [p.run("a", flaky, "a")]
            slow = p.run("slow", let_go.wait, 60)
            own = p.options(retry=ONCE).run("own", flaky, "own")
            with p.parallel() as inner:
                futures.append(inner.run("inner", flaky, "inner"))
        return [outcome(future) for future in (*futures, slow, own)]

    def flaky(name: str) -> None:
        tried.append(name)
        if tried.count(name) == 1:
            fail()

    driver = started(body)
    try:
        assert driver.value() == ["completed", "completed", "StepTimeout", "ValueError"]
    finally:
        let_go.set()
    assert sorted(tried) == ["a", "a", "inner", "inner", "own"]
    assert {name: row["attempts"] for name, row in driver.steps().items()} == {
        "a": 2, "slow": 2, "own": 1, "inner": 2,
    }  # fmt: skip


tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


def test_context_variables_reach_the_functions(started: Started) -> None:
    def body() -> list[str]:
        tenant.set("acme")
        with step.parallel() as p:
            futures = [p.run("a", read_and_set, "a"), p.options(timeout="1m").run("b", read_and_set, "b")]
        return [*(future.result() for future in futures), tenant.get()]

    def read_and_set(name: str) -> str:
        found = tenant.get()
        tenant.set(name)
        return found

    assert started(body).value() == ["acme", "acme", "acme"]


def test_current_in_a_branch(started: Started) -> None:
    together = threading.Barrier(2, timeout=20)
    seen: list[Any] = []

    def look(rows: int) -> None:
        now = step.current()
        together.wait()
        seen.append((now.step_id, now.run_id, now.attempt, now.idempotency_key, now.last_heartbeat))
        now.heartbeat({"row": rows * now.attempt})
        together.wait()
        if now.attempt < 2:
            raise ConnectionError

    def body() -> None:
        with step.parallel() as p:
            p.run("a", look, 10)
            p.run("b", look, 20)

    driver = started(body)
    assert driver.value() is None
    assert sorted(seen, key=lambda one: (one[2], one[0])) == [
        ("a", "r1", 1, "r1:a", None), ("b", "r1", 1, "r1:b", None),
        ("a", "r1", 2, "r1:a", {"row": 10}), ("b", "r1", 2, "r1:b", {"row": 20}),
    ]  # fmt: skip
    assert [row["heartbeat"] for row in driver.steps().values()] == ['{"row":20}', '{"row":40}']


def test_transactions_of_a_block(store: Store, started: Started) -> None:
    with store.engine.begin() as connection:
        connection.execute(text("CREATE TABLE paid (name VARCHAR(20) PRIMARY KEY)"))

    def pay(session: Any, name: str) -> str:
        session.execute(text("INSERT INTO paid VALUES (:name)"), {"name": name})
        if name == "bad":
            fail()
        return name

    def body() -> list[Any]:
        with step.options(retry=ONCE).parallel(settle=True) as p:
            futures = [p.transaction(name, pay, name) for name in ("a", "b", "bad", "c")]
        step.sleep("nap", "1h")
        return [outcome(future) for future in futures]

    assert started(body).value() == ["completed", "completed", "ValueError", "completed"]
    with store.engine.connect() as connection:
        assert list(connection.execute(text("SELECT name FROM paid ORDER BY name")).scalars()) == ["a", "b", "c"]


def test_emitting_in_a_block_happens_once(store: Store, started: Started) -> None:
    def body() -> str:
        with step.parallel() as p:
            first = p.emit("tell", "told", 1)
            p.wait_for_event("own", "told")
            p.sleep("s", "1h")
        return first.result()

    driver = started(body)
    assert driver.value() == rows(store, "event")[0].id
    assert len(rows(store, "event")) == 1


# -- A worker that goes


def test_a_branch_of_a_worker_that_lost_the_run(started: Started) -> None:
    """Nothing of the pass is recorded any more, and what goes on in its threads has no way to the database."""
    seen: list[str] = []
    is_taken, let_go = threading.Event(), threading.Event()

    def loses() -> None:
        taken(driver)
        is_taken.set()

    def goes_on() -> None:
        is_taken.wait(20)
        let_go.wait(20)
        try:
            step.current().heartbeat(1)
        except BaseException as error:
            seen.append(type(error).__name__)
            raise
        seen.append("heard")

    def body() -> None:
        with step.race() as r:
            r.run("loses", loses)
            r.run("goes-on", goes_on)

    driver = started(body)
    try:
        assert isinstance(driver.one_pass(), Gone)
    finally:
        let_go.set()
        wait_until(lambda: has_ended("goes-on"))
    assert (driver.run()["status"], driver.run()["worker"], driver.steps()) == ("running", "other/2", {})
    assert seen == ["StepCancelled"]


def test_a_worker_that_shuts_down_waits_for_the_functions_at_work(started: Started) -> None:
    calls: list[str] = []

    def call(name: str) -> None:
        calls.append(name)
        driver.dispatcher.is_stopping = len(calls) == 1

    def body() -> str:
        with step.parallel(limit=1) as p:
            p.run("a", call, "a")
            p.run("b", call, "b")
        return "done"

    driver = started(body)
    assert driver.one_pass() == Parked("a worker, its last one is shutting down")
    assert (calls, statuses(driver)) == (["a"], {"a": "completed"})
    driver.dispatcher.is_stopping = False
    assert driver.value() == "done"
    assert calls == ["a", "b"]
