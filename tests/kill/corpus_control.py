"""Shapes of workflows to be killed that undo, count, take locks, begin again, and tell how far they are."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from celery_durable import NonRetryable, aio, step
from celery_durable.core.codec import decode
from celery_durable.engine.current import current_pass

from .corpus import AT_ONCE, LATER, Notes, key, shape, work
from .corpus_async import CORPUS, later
from .corpus_composition import child, flaky

__all__ = ["CORPUS"]


def undo(name: str) -> str:
    """What was done is undone. The body is left by then."""
    file = os.open(Notes.folder / step.current().run_id, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{name}\n".encode())
    os.close(file)
    return name


def undo_at_last(name: str, attempts: int) -> int:
    attempt = step.current().attempt
    undo(f"{name}-{attempt}")
    if attempt < attempts:
        raise ConnectionError(f"attempt {attempt}")
    return attempt


async def undo_later(name: str) -> str:
    await asyncio.sleep(0)
    return undo(name)


# -- Undos


@shape()
def rolled_back() -> Any:
    """Three undos, of which one has to be tried again, twice later and twice at once."""
    step.run("book", work, "book")
    step.on_rollback("unbook", undo, "unbook")
    step.run("charge", work, "charge")
    step.options(retry=LATER).on_rollback("refund", undo_at_last, "refund", 3)
    step.sleep("nap", "1h")
    step.options(retry=AT_ONCE).on_rollback("tell", undo_at_last, "tell", 2)
    raise LookupError("no seat")


@shape()
def rolled_back_in_part() -> Any:
    """One undo fails for good, and is told; the body cleans up before."""

    def never() -> None:
        undo("never")
        raise NonRetryable("gone")

    step.on_rollback("last", undo, "last")
    step.on_rollback("never", never)
    step.on_rollback("first", undo, "first")
    try:
        step.run("before", work, "before")
        raise LookupError("no seat")
    finally:
        step.run("tidy", work, "tidy")


@shape(cancelled=True, free=["never"])
def rolled_back_by_cancelling() -> Any:
    step.run("book", work, "book")
    step.on_rollback("unbook", undo, "unbook")
    step.options(retry=LATER).on_rollback("tell", undo_at_last, "tell", 2)
    try:
        step.wait_for_event("never", key=key())
    finally:
        step.run("tidy", work, "tidy")
        step.sleep("calm", "1h")


def booking() -> None:
    step.run("book below", work, "book-below")
    step.options(retry=LATER).on_rollback("unbook below", undo_at_last, "unbook-below", 2)
    step.wait_for_event("never", key=key())


@shape(cancelled=True, free=["never"], children={"booking": booking})
def rolled_back_with_its_calls() -> Any:
    step.on_rollback("unbook", undo, "unbook")
    step.call("call", "booking")


@shape()
async def async_rolled_back() -> Any:
    async def branch(name: str) -> None:
        await aio.step.run(f"book {name}", later, f"book-{name}")
        await aio.step.on_rollback(f"unbook {name}", undo_later, f"unbook-{name}")

    await branch("a")
    await aio.step.options(retry=LATER).on_rollback("refund", undo_at_last, "refund", 2)
    await branch("b")
    raise LookupError("no seat")


# -- State. It is shared by all runs: each begins with none.


BEGINS = "state.delete(count)"


@shape(free=[BEGINS])
def counted() -> Any:
    step.state.delete("count")
    found: list[Any] = [step.state.increment("count"), step.state.increment("count", by=10)]
    step.state.set("cursor", {"page": found[-1]})
    step.sleep("nap", "1h")
    for number in range(3):
        step.run(f"work-{number}", work, f"work-{number}")
        found.append(step.state.increment("count"))
    found += [step.state.get("count"), step.state.get("cursor"), step.state.delete("cursor")]
    return [*found, step.state.delete("cursor"), step.state.get("cursor", "none")]


# -- Locks. Each run has its own, by its key.


@shape(free=["outer", "inner", "again"])
def locked() -> Any:
    name = key()
    with step.lock("outer", name):
        step.run("first", work, "first")
        step.sleep("nap", "1h")
        with step.lock("inner", f"{name}/inner", ttl="30d"):
            found = step.options(retry=LATER).run("flaky", flaky, "flaky", 2)
    with step.lock("again", name):
        step.run("last", work, "last")
    return found


@shape(free=["mine"])
def locked_and_failing() -> Any:
    with step.lock("mine", key()):
        step.run("first", work, "first")
        step.sleep("nap", "1h")
        raise LookupError("nothing there")


@shape(cancelled=True, free=["mine", "never"])
def locked_and_cancelled() -> Any:
    with step.lock("mine", key()):
        step.wait_for_event("never", key=key())


def locking(name: str) -> str:
    with step.lock("theirs", name):
        step.run("inside", work, "inside")
        step.sleep("nap below", "1h")
    return "had it"


@shape(free=["mine", "call", "theirs"], children={"locking": locking})
async def locked_and_waited_for() -> Any:
    """What it calls stands in line for the lock that it has."""
    name = key()
    async with aio.step.lock("mine", name):
        call = asyncio.ensure_future(aio.step.call("call", ("locking", name)))
        await aio.step.sleep("nap", "1h")
        await aio.step.run("first", later, "first")
    return await aio.step.run("last", later, await call)


# -- Beginning again


@shape(free=["mine"], children={"child": child})
def begun_again(number: int = 0) -> Any:
    step.run("work", work, f"work-{number}")
    found = step.call("call", ("child", number))
    with step.lock("mine", key()):
        step.sleep("nap", "1h")
        if number < 2:
            step.continue_as_new(number + 1)
    return [number, found]


@shape()
async def async_begun_again(number: int = 0) -> Any:
    if number == 0:
        await aio.step.state.delete("count")
    await aio.step.run("work", later, f"work-{number}")
    await aio.step.state.increment("count")
    if number < 2:
        await aio.step.continue_as_new(number + 1)
    return await aio.step.state.get("count")


# -- Changes of the code, and what is told


@shape()
def changed() -> Any:
    found = [step.patched("one")]
    step.run("first", work, "first")
    step.sleep("nap", "1h")
    found += [step.patched("two"), step.patched("one")]
    step.deprecate_patch("three")
    return [*found, step.run("second", work, "second", "done")]


def reported() -> Any:
    """How far the run has come, for whoever looks."""
    run = current_pass.get()
    assert run is not None
    with run.store.link() as link:
        found = run.store.get(link, run.run_id)
    assert found is not None
    return decode(found[0]["reported"])[1:]


@shape()
def told() -> Any:
    found = []
    for number in range(3):
        step.set_progress(number, 3, f"part {number}")
        found.append(step.run(f"look-{number}", reported))
        step.sleep(f"nap-{number}", "1h")
    return [*found, step.run("look again", reported)]
