"""Shapes of ``async def`` workflows to be killed."""

from __future__ import annotations

import asyncio
from typing import Any

from celery_durable import Event
from celery_durable.aio import step

from .corpus import CORPUS, LATER, Notes, key, shape, work
from .corpus_composition import child, flaky, slowly

__all__ = ["CORPUS"]


async def later(name: str, seconds: float = 0.01) -> str:
    Notes.write(name)
    await asyncio.sleep(seconds)
    return name


@step
async def numbered(name: str) -> str:
    return await later(name)


@shape(branches=2, free=["outside"])
async def async_gather() -> Any:
    """Functions of both kinds, a sleep and an event, one beside the other."""
    found = await asyncio.gather(
        step.run("awaited", later, "awaited"),
        step.run("threaded", slowly, "threaded", 1, 0.02),
        step.sleep("nap", "1h"),
        step.wait_for_event("outside", key=key()),
    )
    assert isinstance(found[3], Event)
    return [*found[:3], await step.run("after", work, "after", found[3].payload["from"])]


@shape(branches=2)
async def async_branches() -> Any:
    """Branches of several steps, the second of which awaits something un-stepped first."""

    async def branch(number: int) -> list[str]:
        await asyncio.sleep(0)
        first = await numbered(f"first-{number}")
        if number:
            await step.sleep("nap", "1h")
        return [first, await numbered(f"second-{number}")]

    return await asyncio.gather(branch(0), branch(1))


# Where the quick one is slow, the wait is opened meanwhile, and withdrawn: two writes more.
@shape(branches=2, loose=["never"], free=["never"])
async def async_race() -> Any:
    never = step.wait_for_event("never", key=key())
    tasks = {asyncio.ensure_future(step.run("quick", later, "quick")), asyncio.ensure_future(never)}
    done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.wait(pending)
    return await step.run("after", work, "after", [task.result() for task in done])


@shape(branches=2)
async def async_retries() -> Any:
    return await asyncio.gather(
        step.options(retry=LATER).run("flaky", flaky, "flaky", 2), step.run("steady", later, "steady")
    )


@shape(branches=1)
async def async_timeout() -> Any:
    """The step is given up, and stays so."""
    try:
        await asyncio.wait_for(step.run("slow", later, "slow", 60), 0.03)
    except asyncio.TimeoutError:
        await step.run("told", work, "told")
    return await step.run("after", work, "after", "told")


@shape(children={"child": child})
async def async_call() -> Any:
    return await asyncio.gather(step.call("one", ("child", 10)), step.call("two", ("child", 20)))
