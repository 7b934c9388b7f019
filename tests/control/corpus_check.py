"""Shapes of workflows for ``durable check``, besides those that are killed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from celery_durable import Retry, get_logger, step
from celery_durable.aio import step as aio
from celery_durable.engine.current import current_pass
from tests.kill.corpus import Shape, key, work
from tests.kill.corpus_async import CORPUS as KILLED

__all__ = ["SHAPES"]

logger = get_logger(__name__)
ONCE = Retry(max_attempts=1)
SHAPES: list[Shape] = [*KILLED]


def shape(**values: Any) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def add(body: Callable[[], Any]) -> Callable[[], Any]:
        SHAPES.append(Shape(body, **values))
        return body

    return add


# -- More shapes


@shape()
def locks() -> Any:
    with step.lock("outer", f"outer-{key()}"):
        step.run("one", work, "one")
        with step.lock("inner", f"inner-{key()}", ttl="1h"):
            step.sleep("nap", "1h")
            step.run("two", work, "two")
        step.run("three", work, "three")
    return step.run("four", work, "four")


@shape()
def keeps_state() -> Any:
    step.state.set(key(), 1, ttl="1d")
    step.sleep("nap", "1h")
    found = [step.state.increment(key()), step.state.get(key()), step.state.delete(key())]
    return [*found, step.state.get(key(), "default")]


@shape()
def says() -> Any:
    step.set_progress(0, 2, "begun")
    step.run("one", work, "one")
    logger.info("one is done")
    step.set_progress(1, 2)
    step.sleep("nap", "1h")
    step.set_progress(2, 2)
    return step.run("two", work, "two")


@shape()
def rolled_back() -> Any:
    for name in ("one", "two"):
        step.run(name, work, name)
        step.on_rollback(f"undo {name}", work, f"undo-{name}")
    step.sleep("nap", "1h")
    raise LookupError("nothing there")


@shape()
def on_the_new_side() -> Any:
    step.run("one", work, "one")
    name = "new" if step.patched("change") else "old"
    step.sleep("nap", "1h")
    return step.run(name, work, name)


@shape()
def handled_and_raised_again() -> Any:
    """What is done about an error, before the run fails of it."""
    try:
        step.options(retry=ONCE).run("charge", refuse)
    except LookupError:
        step.run("notify", work, "notify")
        step.sleep("nap", "1h")
        raise


def refuse() -> None:
    raise LookupError("refused")


@shape()
def a_loser_is_asked() -> Any:
    """A body that ends with an error of this package's own."""
    with step.race() as r:
        nap = r.sleep("nap", "1h")
        never = r.wait_for_event("never", key=key())
    step.run("after", work, "after")
    return [nap.result(), never.result()]


@shape()
def begins_again() -> Any:
    run = current_pass.get()
    assert run is not None
    step.run("one", work, "one")
    step.sleep("nap", "1h")
    step.run("two", work, "two")
    if run.claim.generation < 2:
        step.continue_as_new()
    return run.claim.generation


@shape(cancelled=True)
def cleans_up_when_cancelled() -> Any:
    try:
        with step.lock("lock", key()), step.parallel() as p:
            p.wait_for_event("never", key=key())
            p.run("one", work, "one")
    finally:
        for name in ("tidy", "tidy more"):
            step.run(name, work, name)
            step.sleep(f"{name}, and calm", "1h")


@shape(branches=2)
async def async_of_many() -> Any:
    async def branch(number: int) -> Any:
        found = []
        for turn in range(3):
            found.append(await aio.run(f"{number}-{turn}", work, f"{number}-{turn}"))
            await aio.sleep(f"nap {number}-{turn}", "1h")
        return found

    first, _ = await asyncio.wait([asyncio.ensure_future(branch(n)) for n in range(3)])
    for task in first:
        task.result()
    await aio.wait_for_event("never", key=key(), timeout="2h")
    return await aio.run("after", work, "after")
