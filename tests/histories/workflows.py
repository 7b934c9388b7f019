"""Workflows whose histories are kept, and replayed by every later version of the package. They are not to be changed:
new ones are added behind them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from celery import Celery

from celery_durable import DurableTask, NonRetryable, Retry, aio, step
from celery_durable.testing import DurableEnv, EnvRun

app = Celery("histories", broker="memory://", backend="cache+memory://", set_as_current=False)
ONCE = Retry(max_attempts=1)
RECORDED: dict[str, Callable[[DurableEnv], EnvRun]] = {}
"""How each history comes about, by its name."""


def recorded(play: Callable[[DurableEnv], EnvRun]) -> Callable[[DurableEnv], EnvRun]:
    RECORDED[play.__name__] = play
    return play


def fail(message: str) -> Any:
    raise NonRetryable(message)


@app.task
def plain(number: int) -> int:
    return number + 1


@app.task(base=DurableTask)
def child(number: int) -> int:
    step.sleep("1h")
    return step.run("double", int.__mul__, number, 2)


@app.task(base=DurableTask)
def onboard(user_id: str, email: str) -> dict[str, Any]:
    user = step.run("create-user", dict, id=user_id, email=email)
    at, number = step.now(), step.random()
    step.sleep("a-minute", "1m")
    click = step.wait_for_event("email.verified", key=f"user:{user_id}", timeout="24h")
    step.emit("tell", "user.onboarded", {"id": user_id})
    return {"user": user, "at": at, "random": number, "clicked": click is not None}


@app.task(base=DurableTask)
def several(count: int) -> list[Any]:
    with step.parallel(settle=True) as p:
        good, bad = p.run("good", str, 1), p.options(retry=ONCE).run("bad", fail, "no")
        below, nap = p.call("below", child.s(4)), p.sleep("nap", "5m")
    with step.race() as r:
        r.sleep("long", "2h")
        event = r.wait_for_event("first")
    doubled = step.map("double", str, range(count), limit=2)
    return [good.result(), str(bad.exception()), below.result(), nap.result(), event is r.winner, doubled]


@app.task(base=DurableTask)
def saga(amount: int) -> None:
    for name in ("flight", "hotel"):
        step.run(f"book-{name}", str, name)
        step.on_rollback(f"cancel-{name}", str, name)
    step.sleep("think", "1h")
    step.options(retry=ONCE).run("charge", fail, f"{amount} is too much")


@app.task(base=DurableTask)
def counts(so_far: int = 0) -> int:
    with step.lock("mine", "histories", ttl="1h"):
        total = step.state.increment("total")
    step.sleep("1d")
    if step.patched("thrice") and so_far < 2:
        step.continue_as_new(so_far + 1)
    return int(total)


@app.task(base=DurableTask)
async def gathered(names: list[str]) -> list[Any]:
    async def greet(name: str) -> str:
        await aio.step.sleep(f"wait-{name}", "1h")
        return await aio.step.run(f"greet-{name}", str.title, name)

    greeted = await asyncio.gather(*(greet(name) for name in names))
    try:
        await asyncio.wait_for(aio.step.wait_for_event("never"), 3600)
    except asyncio.TimeoutError:
        greeted.append("nobody")
    return [*greeted, await aio.step.call("plain", plain.s(1))]


# -- What happened


@recorded
def onboard_clicked(env: DurableEnv) -> EnvRun:
    run = env.start(onboard, "u1", "ann@example.com")
    env.advance("1h")
    env.emit("email.verified", {"by": "mail"}, key="user:u1")
    return run


@recorded
def onboard_timed_out(env: DurableEnv) -> EnvRun:
    run = env.start(onboard, "u1", "ann@example.com")
    env.advance("2d")
    return run


@recorded
def onboard_waiting(env: DurableEnv) -> EnvRun:
    run = env.start(onboard, "u1", "ann@example.com")
    env.advance("1h")
    return run


@recorded
def several_done(env: DurableEnv) -> EnvRun:
    run = env.start(several, 3)
    env.advance("1h")
    env.emit("first")
    env.run_until_idle()
    return run


@recorded
def several_under_way(env: DurableEnv) -> EnvRun:
    run = env.start(several, 3)
    env.advance("10m")
    return run


@recorded
def saga_rolled_back(env: DurableEnv) -> EnvRun:
    run = env.start(saga, 7)
    env.run_until_idle()
    return run


@recorded
def counts_done(env: DurableEnv) -> EnvRun:
    run = env.start(counts)
    env.run_until_idle()
    return run


@recorded
def gathered_done(env: DurableEnv) -> EnvRun:
    run = env.start(gathered, ["ann", "bob"])
    env.run_until_idle()
    return run


@recorded
def gathered_under_way(env: DurableEnv) -> EnvRun:
    run = env.start(gathered, ["ann", "bob"])
    env.advance("90m")
    return run
