"""Workers that die, and programs of all kinds: a replay sees what the first pass saw."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from celery_durable.aio import step
from celery_durable.engine.executor import Ended, Finished
from celery_durable.engine.passing import Pass
from celery_durable.store.store import Store

from .blocks import ONCE
from .driving import Driver
from .test_async import awaited, passes, slept
from .test_errors import Died
from .test_events import rows
from .test_race import died

Started = Callable[..., Driver]


# -- Crashes


class Crash:
    """Ends a pass as a kill does, before or after its write of this number."""

    def __init__(self, at: int, after: bool) -> None:
        self.left, self.after = at, after

    def patch(self, monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
        plain = Pass.reaching

        def reaching(run: Pass, operation: Callable[[], Any]) -> Any:
            if run.store is not store:
                return plain(run, operation)
            self.left -= 1
            if self.left < 0 or (self.left == 0 and not self.after):
                raise Died
            found = plain(run, operation)
            if self.left == 0:
                raise Died
            return found

        monkeypatch.setattr(Pass, "reaching", reaching)


def crash_and_go_on(driver: Driver, crash: Crash, monkeypatch: pytest.MonkeyPatch, *args: Any) -> Ended:
    """All passes of a run, one of which dies."""
    with monkeypatch.context() as patched:
        crash.patch(patched, driver.store)
        try:
            ended = driver.finish("r1", *args)
        except Died:
            pass
        else:
            return ended
    if driver.run()["status"] == "running":
        died(driver)
    else:
        driver.let_time_pass()
    return driver.finish("r1", *args)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, 14))
def test_a_worker_that_dies_at_some_write(
    started: Started, monkeypatch: pytest.MonkeyPatch, at: int, after: bool
) -> None:
    decided: list[str] = []

    async def body() -> str:
        found = await asyncio.gather(step.run("a", slept, "a"), step.run("b", awaited, "b"), step.emit("tell", "told"))
        quick = asyncio.ensure_future(step.run("quick", awaited, "quick", 0.005))
        other = asyncio.ensure_future(step.run("other", slept, "other", 0.005))
        done, pending = await asyncio.wait({quick, other}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        winner = quick if quick in done else other
        decided.append(await step.run(f"pay {winner.result()}", awaited, winner.result()))
        await step.sleep("nap", "1h")
        await step.random()
        with_time = asyncio.wait_for(step.wait_for_event("w"), 0.01)
        assert (await asyncio.gather(with_time, return_exceptions=True))[0] is not None
        return ",".join([*found[:2], await step.run("end", awaited, decided[-1])])

    driver = started(body)
    ended = crash_and_go_on(driver, Crash(at, after), monkeypatch)
    assert isinstance(ended, Finished), ended
    paid = [name for name in driver.steps() if name.startswith("pay")]
    assert len(paid) == 1
    assert ended.value == f"a,b,{paid[0].removeprefix('pay ')}"
    assert len(rows(driver.store, "event")) == 1


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, 4))
def test_losers_do_not_go_on_where_a_worker_died_behind_the_race(
    started: Started, monkeypatch: pytest.MonkeyPatch, at: int, after: bool
) -> None:
    """All had ended and were recorded before; that they were given up is recorded with what follows the race."""

    async def at_once(value: Any) -> Any:
        return value

    async def body() -> Any:
        async def branch(name: str) -> Any:
            await step.run(f"{name} first", at_once, name)
            return await step.run(f"{name} second", at_once, name)

        quick = asyncio.ensure_future(step.run("quick", at_once, "quick"))
        tasks = {quick, *(asyncio.ensure_future(branch(name)) for name in "abc")}
        done, losers = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in losers:
            task.cancel()
        await asyncio.gather(*losers, return_exceptions=True)
        paid = await step.run("pay", awaited, [task.result() for task in done])
        await step.sleep("nap", "1h")
        return paid

    driver = started(body)
    assert crash_and_go_on(driver, Crash(at, after), monkeypatch) == Finished(["quick"])
    assert not [name for name in driver.steps() if name.endswith("second")]


# -- Any program


class Program:
    """A random body: branches of steps, sleeps and races, which logs all that it sees."""

    def __init__(self, seed: int, *more: str) -> None:
        self.seed = seed
        self.kinds = ["run", "thread", "fails", "sleep", "short", "drawn", *(kind for kind in more if kind == "bare")]
        self.blocks = ["gather", "gather", "race", *(kind for kind in more if kind != "bare")]

    async def __call__(self, log: list[Any]) -> str:
        luck = random.Random(self.seed)
        await self.several("", luck, log, 0)
        await step.sleep("last nap", "1h")
        return "done"

    async def several(self, at: str, luck: random.Random, log: list[Any], depth: int) -> None:
        for number in range(luck.randint(1, 3)):
            await self.one(f"{at}/{number}", random.Random(luck.random()), log, depth)

    async def one(self, at: str, luck: random.Random, log: list[Any], depth: int) -> None:
        kind = luck.choice(self.kinds if depth > 2 else [*self.kinds, *self.blocks])
        length = luck.choice([0, 0.002, 0.005, 0.01])
        if kind in ("run", "thread"):
            log.append((at, await step.run(f"{at} run", awaited if kind == "run" else slept, kind, length)))
        elif kind == "fails":
            try:
                await step.options(retry=ONCE).run(f"{at} fails", int, "x")
            except ValueError:
                log.append((at, "failed"))
        elif kind in ("sleep", "short"):
            await step.sleep(f"{at} nap", 0.004 if kind == "short" else luck.choice(["1h", "2h"]))
            log.append((at, "slept"))
        elif kind == "bare":
            await asyncio.sleep(length)
        elif kind == "drawn":
            log.append((at, await step.random()))
        else:
            await self.block(kind, at, luck, log, depth)

    async def block(self, kind: str, at: str, luck: random.Random, log: list[Any], depth: int) -> None:
        branches = [
            asyncio.ensure_future(self.several(f"{at}.{number}", random.Random(luck.random()), log, depth + 1))
            for number in range(luck.randint(1, 3))
        ]
        if kind == "gather":
            await asyncio.gather(*branches)
        elif kind == "race":
            done, pending = await asyncio.wait(branches, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            log.append((at, sorted(branches.index(task) for task in done)))
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        else:
            whole: Any = asyncio.gather(*branches)
            inner = asyncio.shield(whole) if kind == "shield" else whole
            try:
                await asyncio.wait_for(inner, luck.choice([0.003, 0.02, 1800, 5400]))
                log.append((at, "in time"))
            except asyncio.TimeoutError:
                log.append((at, "timeout"))
            await asyncio.gather(whole, return_exceptions=True)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("more", [(), ("timeout",), ("shield",), ("timeout", "shield")])
def test_any_program_is_replayed_as_it_went(started: Started, more: tuple[str, ...], seed: int) -> None:
    ended, _ = passes(started(Program(seed, *more)))
    assert ended == Finished("done")


@pytest.mark.parametrize("seed", range(12))
def test_a_program_with_bare_sleeps_ends(started: Started, seed: int) -> None:
    """What is not durable has no place in the order: a sleep of asyncio's may end before an answer or after it."""
    assert started(Program(seed, "bare", "timeout", "shield")).finish("r1", []) == Finished("done")
