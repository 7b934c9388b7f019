"""The verbs of async tasks."""

from __future__ import annotations

import asyncio

from typing_extensions import assert_type

from celery_durable import Event
from celery_durable.aio import step


async def fetch(user: str) -> int:
    return len(user)


def score(user: str) -> str:
    return user


async def body(user: str) -> None:
    assert_type(await step.run("fetch", fetch, user), int)
    assert_type(await step.run("score", score, user), str)
    both = await asyncio.gather(step.run("a", fetch, user), step.run("b", score, user))
    assert_type(both, tuple[int, str])
    assert_type(await asyncio.create_task(step.run("later", fetch, user)), int)
    await step.sleep("1h")
    assert_type(await step.wait_for_event("paid"), Event)
    assert_type(await step.wait_for_event("paid", timeout="1h"), Event | None)
    assert_type(await step.wait_for_event("paid", timeout="1h", on_timeout="fail"), Event)
    await step.run("fetch", fetch, 7)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
