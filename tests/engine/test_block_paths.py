"""Which blocks a step is a branch of, as its row tells."""

from __future__ import annotations

from typing import Any

import pytest

from celery_durable import Retry, aio, step
from celery_durable.store.store import Store

from .blocks import ONCE, Started, child_of, end_child, fail, time_is_up
from .driving import Driver
from .test_events import dispatch, emit


def blocks(driver: Driver) -> dict[str, str | None]:
    return {name: row["block"] for name, row in driver.steps().items()}


def nested() -> None:
    step.run("before", int)
    with step.parallel() as p:
        p.run("a", int)
        with p.race() as r:
            r.run("b", int)
            r.wait_for_event("never", timeout="1h")
        p.map("m", str, [1, 2])
        with p.parallel() as inner:
            inner.call("child", "body")
            inner.map("deep", str, [3])
            inner.transaction("t", lambda session: 4)
        p.sleep("nap", "1h")
        p.emit("tell", "told")
        p.wait_for_event("heard", key="k")
    step.map("alone", str, [5, 6])
    step.run("after", int)


NESTED = {
    "before": None,
    "a": "parallel:1",
    "b": "parallel:1/race:2",
    "never": "parallel:1/race:2",
    "m[0]": "parallel:1/map:4",
    "m[1]": "parallel:1/map:4",
    "child": "parallel:1/parallel:6",
    "deep[0]": "parallel:1/parallel:6/map:7",
    "t": "parallel:1/parallel:6",
    "nap": "parallel:1",
    "tell": "parallel:1",
    "heard": "parallel:1",
    "alone[0]": "map:12",
    "alone[1]": "map:12",
    "after": None,
}


def test_a_branch_names_its_blocks_from_the_outermost_on(store: Store, started: Started) -> None:
    """Whatever writes its row, in whichever pass."""
    driver = started(nested)
    driver.one_pass()
    parked = blocks(driver)
    assert parked == {name: NESTED[name] for name in parked}
    end_child(driver, "child", lambda: "fine")
    dispatch(store, emit(store, "heard", "yes", key="k"))
    time_is_up(driver, "nap")
    driver.value()
    assert {name: block for name, block in blocks(driver).items() if name in NESTED} == {
        name: block for name, block in NESTED.items() if name in driver.steps()
    }
    assert {"b", "alone[1]", "after", "child", "heard", "nap"} <= driver.steps().keys()


def test_a_block_that_begins_with_a_block_has_its_place(started: Started) -> None:
    def body() -> None:
        with step.parallel():
            pass
        with step.parallel() as p:
            with p.parallel():
                pass
            with p.race() as r:
                r.run("first", int)
            p.run("second", int)

    driver = started(body)
    driver.value()
    assert blocks(driver) == {"first": "parallel:0/race:0", "second": "parallel:0"}


def test_what_is_recorded_in_a_later_pass_tells_the_same(started: Started) -> None:
    """The first branch has its row by then, the others get theirs one after the other."""
    going: list[str] = []

    def body() -> None:
        with step.parallel(limit=1) as p:
            p.sleep("nap", "1h")
            p.run("then", going.append, "then")
            with p.race() as r:
                r.sleep("long", "2h")
                r.sleep("short", "1h")
                r.call("child", "body")

    driver = started(body)
    driver.one_pass()
    assert blocks(driver) == {"nap": "parallel:0"}
    time_is_up(driver, "nap")
    driver.one_pass()
    child_of(driver, "child")
    inner = dict.fromkeys(("long", "short", "child"), "parallel:0/race:2")
    assert blocks(driver) == {"nap": "parallel:0", "then": "parallel:0"} | inner
    time_is_up(driver, "short")
    driver.value()
    assert driver.steps()["child"]["status"] == driver.steps()["long"]["status"] == "cancelled"
    assert blocks(driver) == {"nap": "parallel:0", "then": "parallel:0"} | inner


def test_failed_and_interrupted_branches_tell_it_too(started: Started) -> None:
    def body() -> None:
        with step.parallel(settle=True) as p:
            p.options(retry=ONCE, at_most_once=True).run("once", fail)
            p.run("again", fail)

    driver = started(body, step_retry=Retry(max_attempts=2, delay="1h"))
    driver.one_pass()
    assert driver.steps()["again"]["status"] == "waiting"
    driver.let_time_pass()
    driver.finish()
    assert blocks(driver) == dict.fromkeys(("once", "again"), "parallel:0")


def test_undos_and_what_no_block_holds_tell_none(started: Started) -> None:
    def body() -> None:
        with step.parallel() as p:
            p.run("in", int)
            step.on_rollback("undo", int)
        with step.lock("l", "name"):
            step.state.set("key", 1)
        step.options(retry=ONCE).run("out", fail)

    driver = started(body)
    driver.finish()
    found = blocks(driver)
    assert found.pop("in") == "parallel:0"
    assert {"undo", "out", "l"} <= found.keys()
    assert set(found.values()) == {None}


def test_blocks_that_are_nested_too_deep_to_be_told_are_told_as_far_as_they_can(started: Started) -> None:
    def within(block: Any, depth: int) -> None:
        if depth:
            with block.parallel() as inner:
                within(inner, depth - 1)
        else:
            block.run("deep", int)
            block.run("deep-too", int)

    def body() -> None:
        with step.parallel() as p:
            within(p, 40)

    driver = started(body)
    driver.value()
    told = "/".join(["parallel:0"] * 23)
    assert len(told) <= 255 < len(f"{told}/parallel:0")
    assert blocks(driver) == {"deep": told, "deep-too": told}


@pytest.mark.parametrize("passes", [1, 2])
def test_an_async_body_has_no_blocks(started: Started, passes: int) -> None:
    async def body() -> None:
        await aio.step.map("m", str, range(2))
        if passes == 2:
            await aio.step.sleep("1h")
        await aio.step.run("s", int)

    driver = started(body)
    driver.value()
    assert set(blocks(driver).values()) == {None}
