"""``step.patched`` and ``step.deprecate_patch``: code that changes under runs which are under way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from celery_durable import NotInDurableTask, aio, get_logger, step
from celery_durable.engine.control import RunRetry
from celery_durable.engine.executor import Failed, Finished, Parked
from celery_durable.store.store import Store

from .controls import ONCE, Fed, Starting, counted
from .driving import Driver
from .test_rollback import broken


class Deploy:
    """Versions of a body, and which one the workers have."""

    def __init__(self, *versions: Callable[..., Any]) -> None:
        self.versions = versions
        self.number = 0

    async def __call__(self, step: Any) -> Any:
        return await self.versions[self.number](step)


async def side(step: Any, name: str, seen: list[str]) -> None:
    """Which side of a change this is."""
    seen.append(name)
    await step.run(name, int)


async def before_the_change(step: Any) -> str:
    await step.sleep("nap", "1h")
    await step.sleep("last", "1h")
    return "old"


# -- Which side


def test_a_run_that_comes_there_first_is_on_the_new_side_ever_after(start: Starting) -> None:
    seen: list[bool] = []

    async def body(step: Any) -> None:
        await step.run("before", int)
        seen.append(await step.patched("change"))
        for number in range(3):
            await step.sleep(f"nap-{number}", "1h")

    driver = start(body)
    assert isinstance(driver.finish(), Finished)
    assert seen == [True] * 4
    assert driver.kinds()[:2] == [("before", "run"), ("patched:change", "patched")]


def test_a_run_that_was_past_it_is_on_the_old_side_ever_after(start: Starting) -> None:
    seen: list[bool] = []

    async def old(step: Any) -> None:
        await step.run("before", int)
        for number in range(4):
            await step.sleep(f"nap-{number}", "1h")

    async def new(step: Any) -> None:
        await step.run("before", int)
        seen.append(await step.patched("change"))
        for number in range(4):
            await step.sleep(f"nap-{number}", "1h")

    deploy = Deploy(old, new)
    driver = start(deploy)
    driver.parks()
    deploy.number = 1
    driver.let_time_pass()
    assert isinstance(driver.finish(), Finished)
    assert seen == [False] * 4
    assert "patched" not in dict(driver.kinds()).values()


@pytest.mark.parametrize("parked_at", [0, 1, 2])
def test_it_is_decided_by_what_is_recorded_behind_that_point(start: Starting, parked_at: int) -> None:
    """Parked long before the point, right before it, and right behind it."""
    seen: list[str] = []

    async def old(step: Any) -> None:
        for number in range(3):
            await step.sleep(f"nap-{number}", "1h")
            if number == 1:
                await side(step, "old", seen)

    async def new(step: Any) -> None:
        for number in range(3):
            await step.sleep(f"nap-{number}", "1h")
            if number == 1:
                await side(step, "new" if await step.patched("change") else "old", seen)

    deploy = Deploy(old, new)
    driver = start(deploy)
    driver.parks()
    for _ in range(parked_at):
        driver.let_time_pass()
        driver.parks()
    deploy.number = 1
    driver.let_time_pass()
    assert isinstance(driver.finish(), Finished)
    assert set(seen) == {"old" if parked_at == 2 else "new"}


@pytest.mark.parametrize("under_way", [True, False])
def test_in_a_loop_all_turns_of_a_run_are_on_one_side(start: Starting, under_way: bool) -> None:
    seen: list[list[bool]] = []

    async def old(step: Any) -> None:
        for number in range(5):
            await step.run(f"work-{number}", int)
            await step.sleep(f"nap-{number}", "1h")

    async def new(step: Any) -> None:
        seen.append([])
        for number in range(5):
            seen[-1].append(await step.patched("change"))
            await step.run(f"work-{number}", int)
            await step.sleep(f"nap-{number}", "1h")

    deploy = Deploy(old, new)
    driver = start(deploy)
    if under_way:
        driver.parks()
        driver.let_time_pass()
        driver.parks()
        driver.let_time_pass()
    deploy.number = 1
    assert isinstance(driver.finish(), Finished)
    assert {one for found in seen for one in found} == {not under_way}
    assert len(seen[-1]) == 5


def test_several_changes_each_with_its_own_point(start: Starting) -> None:
    seen: list[list[bool]] = []

    async def old(step: Any) -> None:
        await step.sleep("a", "1h")
        await step.sleep("b", "1h")
        await step.sleep("c", "1h")

    async def new(step: Any) -> None:
        found = [await step.patched("one")]
        await step.sleep("a", "1h")
        found += [await step.patched("two"), await step.patched("three")]
        await step.sleep("b", "1h")
        found.append(await step.patched("four"))
        await step.sleep("c", "1h")
        found.append(await step.patched("two"))
        seen.append([*found, await step.patched("five")])

    deploy = Deploy(old, new)
    driver = start(deploy)
    driver.parks()
    driver.let_time_pass()
    driver.parks()  # in b
    deploy.number = 1
    driver.let_time_pass()
    assert isinstance(driver.finish(), Finished)
    assert seen == [[False, False, False, True, False, True]]


def test_one_change_after_the_other(start: Starting) -> None:
    """A run that is on the new side of the first comes to the second, which was made later."""
    seen: list[tuple[bool, bool]] = []

    async def first(step: Any) -> None:
        await step.patched("one")
        await step.sleep("a", "1h")
        await step.sleep("b", "1h")

    async def second(step: Any) -> None:
        one = await step.patched("one")
        await step.sleep("a", "1h")
        seen.append((one, await step.patched("two")))
        await step.sleep("b", "1h")

    deploy = Deploy(first, second)
    driver = start(deploy)
    driver.parks()
    deploy.number = 1
    driver.let_time_pass()
    assert isinstance(driver.finish(), Finished)
    assert set(seen) == {(True, True)}


def test_a_retry_of_the_run_keeps_its_side(start: Starting) -> None:
    seen: list[bool] = []

    async def body(step: Any) -> None:
        seen.append(await step.patched("change"))
        try:
            await step.options(retry=ONCE).run("fails", broken)
        except ConnectionError as error:
            if len(seen) < 3:
                raise RunRetry(error, 1) from None
            raise

    assert isinstance(start(body).finish(), Failed)
    assert seen == [True] * 3


def test_in_a_block_of_branches(store: Store) -> None:
    """Before the block the run was past the point; behind it it was not."""
    seen: list[tuple[bool, bool]] = []

    def body(version: int) -> None:
        before = version == 2 and step.patched("before")
        with step.parallel() as p:
            p.run("quick", int)
            p.sleep("nap", "1h")
        seen.append((before, version == 2 and step.patched("behind")))
        step.sleep("last", "1h")

    driver = Driver(store, body)
    driver.start()
    driver.one_pass("r1", 1)
    driver.let_time_pass()
    assert isinstance(driver.finish("r1", 2), Finished)
    assert seen == [(False, True)] * 2


def test_in_tasks_of_an_event_loop(store: Store) -> None:
    """One branch has come to its point, and the other is past its own."""
    seen: list[list[bool]] = []

    async def branch(name: str, length: str, version: int, found: list[bool]) -> None:
        await aio.step.sleep(f"{name} first", length)
        if version == 2:
            found.append(await aio.step.patched(f"change of {name}"))
        await aio.step.run(f"{name} work", int)
        await aio.step.sleep(f"{name} last", "1h")

    async def body(version: int) -> None:
        found: list[bool] = []
        await asyncio.gather(branch("quick", "0s", version, found), branch("slow", "2h", version, found))
        seen.append(found)

    driver = Driver(store, body)
    driver.start()
    assert isinstance(driver.one_pass("r1", 1), Parked)
    driver.let_time_pass()
    assert isinstance(driver.finish("r1", 2), Finished)
    assert seen == [[False, True]]


# -- What it costs, and what its record does


def test_a_decision_that_is_recorded_costs_no_statement(start: Starting) -> None:
    async def body(step: Any, changes: int) -> None:
        for number in range(changes):
            assert await step.patched(f"change-{number}")
        await step.sleep("nap", "1h")

    costs = []
    for changes in (1, 10):
        driver = start(body, run_id=f"r{changes}")
        driver.parks(f"r{changes}", changes)
        driver.let_time_pass(f"r{changes}")
        with counted(driver.store.engine) as statements:
            assert isinstance(driver.one_pass(f"r{changes}", changes), Finished)
        costs.append(len(statements))
    assert costs[0] == costs[1] <= 3


def test_its_record_does_no_harm_when_the_change_is_history(start: Starting, caplog: pytest.LogCaptureFixture) -> None:
    """The code asks no more; what comes behind is where it was, and what is new is new."""
    seen: list[bool] = []

    async def changing(step: Any) -> None:
        await step.run("before", int)
        await step.patched("change")
        await step.sleep("nap", "1h")

    async def later(step: Any) -> None:
        await step.run("before", int)
        await step.sleep("nap", "1h")
        get_logger("shop").warning("behind the nap")
        seen.append(await step.patched("another"))
        await step.sleep("last", "1h")

    deploy = Deploy(changing, later)
    driver = start(deploy)
    driver.parks()
    deploy.number = 1
    driver.let_time_pass()
    with caplog.at_level(logging.INFO, "shop"):
        assert isinstance(driver.finish(), Finished)
    assert seen == [True, True]
    assert [record.getMessage() for record in caplog.records if record.name == "shop"] == ["[r1] behind the nap"]


def test_steps_stay_in_their_order_in_later_passes(start: Starting) -> None:
    async def body(step: Any) -> None:
        await step.patched("change")
        await step.run("z", int)
        await step.sleep("y", "1h")
        await step.run("b", int)
        await step.run("a", int)

    driver = start(body)
    driver.finish()
    assert [name for name, _ in driver.kinds()] == ["patched:change", "z", "y", "b", "a"]
    assert [row["position"] for row in driver.steps().values()] == [0, 1, 2, 3, 4]


# -- Misuse


@pytest.mark.parametrize("verb", ["patched", "deprecate_patch"])
@pytest.mark.parametrize(("change", "kind"), [("", ValueError), (" a", ValueError), (None, TypeError), (3, TypeError)])
def test_a_change_has_a_name(start: Starting, verb: str, change: Any, kind: type[Exception]) -> None:
    async def body(step: Any) -> None:
        await getattr(step, verb)(change)

    driver = start(body)
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert type(ended.error) is kind
    assert driver.steps() == {}


def test_changes_with_long_names_are_told_apart(start: Starting) -> None:
    seen: list[bool] = []
    one, two = f"{'x' * 250}-1", f"{'x' * 250}-2"

    async def new(step: Any) -> None:
        found = await step.patched(one)
        await step.sleep("nap", "1h")
        seen.extend((found, await step.patched(two)))

    deploy = Deploy(before_the_change, new)
    driver = start(deploy)
    driver.parks()
    deploy.number = 1
    driver.let_time_pass()
    driver.finish()
    assert seen == [False, True]


@pytest.mark.parametrize("verb", ["patched", "deprecate_patch"])
def test_it_is_asked_in_the_body_of_a_run(store: Store, verb: str) -> None:
    with pytest.raises(NotInDurableTask, match=rf"step\.{verb} was called in "):
        getattr(step, verb)("change")
    driver = Fed(store, lambda: step.options(retry=ONCE).run("outer", lambda: getattr(step, verb)("change")))
    driver.start()
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert f"step.{verb} was called inside the step 'outer'" in str(ended.error)
