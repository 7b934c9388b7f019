"""The workflows of the suite, written as a user would write them.

Each step has an effect outside, counted under its run and its id, and its value is one that nobody had before. A body
returns what it saw of its steps, so that the audit can compare this with what was done and with what is recorded.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from celery import Task, chain, chord, group
from sqlalchemy import text

from celery_durable import (
    Concurrency,
    DurableTask,
    Event,
    Retry,
    StepInterrupted,
    on_event,
    step,
)
from celery_durable.aio import step as astep
from tests.chaos.app import app
from tests.chaos.effects import did

PATIENT = Retry(max_attempts=8, delay="200ms", backoff=1.5, jitter=False)
LONG = "30m"
"""Longer than the suite takes to end: who waits for so long is woken by something else, or is stuck."""
SIGNUP = "chaos.signup"
LIMIT = 2
ACCOUNTS = 4


def work(run: str, name: str, seconds: float = 0.0) -> str:
    nonce = did(run, name)
    time.sleep(seconds)
    return nonce


def pay(session: Any, run: str, name: str) -> str:
    """An effect on the durable database."""
    nonce = did(run, f"{name}:tried")
    values = {"run": run, "name": name, "nonce": nonce}
    session.execute(text("INSERT INTO chaos_payment (run, name, nonce) VALUES (:run, :name, :nonce)"), values)
    return nonce


# ------------------------------------------------------------------- what is called, and called back


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task
def total(values: list[int]) -> int:
    return sum(values)


@app.task
def told(value: Any, run: str, name: str) -> None:
    """A callback."""
    did(run, name)


@app.task
def told_error(request: Any, error: Any, traceback: Any, run: str) -> None:
    did(run, "errback")


@app.task(base=DurableTask, bind=True)
def told_durably(self: Task, value: Any) -> Any:
    """A callback whose message may be lost: it is a run."""
    step.transaction("told", pay, self.request.id, "told")
    return value


@app.task(base=DurableTask, bind=True)
def member(self: Task, value: int, add_to: int = 0) -> int:
    """A part of a canvas."""
    step.run("work", work, self.request.id, "work", 0.02)
    step.sleep("nap", 0.3)
    step.transaction("pay", pay, self.request.id, "pay")
    return value + add_to


@app.task(base=DurableTask, bind=True)
def summed(self: Task, values: list[int]) -> int:
    step.transaction("pay", pay, self.request.id, "pay")
    return sum(values)


# ------------------------------------------------------------------- one thing after the other


@app.task(base=DurableTask, bind=True, step_retry=PATIENT)
def steps(self: Task, seconds: float) -> dict:
    run = self.request.id
    return {name: step.run(name, work, run, name, seconds) for name in ("one", "two", "three", "four")}


@app.task(base=DurableTask, bind=True, step_retry=PATIENT)
def pays(self: Task) -> dict:
    run = self.request.id
    seen = {"first": step.transaction("first", pay, run, "first")}
    seen["work"] = step.run("work", work, run, "work", 0.05)
    step.sleep("nap", 1)
    seen["second"] = step.transaction("second", pay, run, "second")
    return seen


@app.task(base=DurableTask, bind=True)
def naps(self: Task, seconds: float) -> dict:
    run = self.request.id
    seen = {"before": step.run("before", work, run, "before")}
    step.sleep("nap", seconds)
    seen["after"] = step.run("after", work, run, "after")
    return seen


@app.task(base=DurableTask, bind=True, step_retry=PATIENT)
def flaky(self: Task, failures: int) -> dict:
    run = self.request.id
    return {
        "flaky": step.run("flaky", fails_until, run, "flaky", failures),
        "after": step.run("after", work, run, "after"),
    }


def fails_until(run: str, name: str, failures: int) -> str:
    nonce = did(run, name)
    attempt = step.current().attempt
    if attempt <= failures:
        raise ConnectionError(f"attempt {attempt}")
    return nonce


@app.task(base=DurableTask, bind=True, autoretry_for=(KeyError,), max_retries=5, default_retry_delay=0.3)
def retried(self: Task) -> dict:
    """Celery's own retry: of the whole run."""
    run = self.request.id
    seen = {"kept": step.transaction("kept", pay, run, "kept")}
    if self.request.retries < 2:
        raise KeyError("not yet")
    seen["after"] = step.run("after", work, run, "after")
    return seen


@app.task(base=DurableTask, bind=True)
def once(self: Task) -> dict:
    run = self.request.id
    try:
        done = step.options(at_most_once=True).run("risky", work, run, "risky", 0.3)
    except StepInterrupted:
        done = "interrupted"
    return {"risky": done, "after": step.run("after", work, run, "after")}


@app.task(base=DurableTask, bind=True)
def anew(self: Task, number: int = 0) -> int:
    step.transaction("pay", pay, self.request.id, f"pay-{number}")
    step.sleep("nap", 0.2)
    if number < 4:
        step.continue_as_new(number + 1)
    return number


# ------------------------------------------------------------------- events


@app.task(base=DurableTask, bind=True)
def waits(self: Task) -> Any:
    run = self.request.id
    step.run("before", work, run, "before")
    event = step.wait_for_event("approved", key=run, timeout=LONG, on_timeout="fail")
    step.transaction("after", pay, run, "after")
    assert event is not None
    return event.payload


@app.task(base=DurableTask, bind=True)
def hears(self: Task, count: int) -> list:
    run = self.request.id
    heard = []
    for number in range(count):
        event = step.wait_for_event(f"hear-{number}", "said", key=run, timeout=LONG, on_timeout="fail")
        assert event is not None
        heard.append(event.payload)
        step.run(f"work-{number}", work, run, f"work-{number}")
    return heard


@app.task(base=DurableTask, bind=True)
def hears_nothing(self: Task) -> Any:
    event = step.wait_for_event("nothing", key=self.request.id, timeout="2s")
    step.run("after", work, self.request.id, "after")
    return event


@app.task(base=DurableTask, bind=True)
def speaks(self: Task, to: str) -> str:
    """Emits what the run that it calls and another one wait for."""
    step.sleep("nap", 0.5)
    step.emit("say", "spoken", {"to": to}, key=to)
    return to


@app.task(base=DurableTask, bind=True)
def listens(self: Task) -> Any:
    run = self.request.id
    with step.parallel() as block:
        spoken = block.wait_for_event("spoken", key=run, timeout=LONG, on_timeout="fail")
        block.call("speaker", speaks.s(run))
    heard: Any = spoken.result()
    return heard.payload


@app.task(base=DurableTask, bind=True, triggers=[on_event(SIGNUP)])
def triggered(self: Task, event: Event) -> Any:
    step.transaction("welcome", pay, self.request.id, "welcome")
    step.sleep("nap", 0.3)
    return event.payload


# ------------------------------------------------------------------- several at once, and calls


@app.task(base=DurableTask, bind=True, step_retry=PATIENT)
def spreads(self: Task) -> dict:
    run = self.request.id
    with step.parallel() as block:
        done = {name: block.run(name, work, run, name, 0.1) for name in ("a", "b", "c")}
        block.sleep("nap", 0.5)
        approved = block.wait_for_event("approved", key=run, timeout=LONG, on_timeout="fail")
        ordinary = block.call("ordinary", add.s(1, 2))
        durable = block.call("durable", member.s(5))
    step.run("after", work, run, "after")
    heard: Any = approved.result()
    return {name: future.result() for name, future in done.items()} | {
        "approved": heard.payload,
        "ordinary": ordinary.result(),
        "durable": durable.result(),
    }


@app.task(base=DurableTask, bind=True)
def sleeps_on(self: Task) -> None:
    step.on_rollback("undo", work, self.request.id, "undo")
    step.run("begin", work, self.request.id, "begin")
    step.sleep("long", LONG)


@app.task(base=DurableTask, bind=True)
def races(self: Task) -> str:
    run = self.request.id
    with step.race() as race:
        nap = race.sleep("nap", 1)
        race.wait_for_event("never", key=run)
        race.call("loser", sleeps_on.s())
    step.transaction("after", pay, run, "after")
    return "nap" if race.winner is nap else "other"


@app.task(base=DurableTask, bind=True, step_retry=PATIENT)
def maps(self: Task, count: int) -> list:
    run = self.request.id
    return step.map("item", item, [[run, number] for number in range(count)], limit=3)


def item(given: list) -> str:
    run, number = given
    return work(run, f"item[{number}]", 0.02)


@app.task(base=DurableTask, bind=True)
def tree(self: Task, levels: int) -> int:
    """Leaves count one."""
    if levels == 0:
        step.transaction("leaf", pay, self.request.id, "leaf")
        return 1
    with step.parallel() as block:
        parts = [block.call(f"child-{number}", tree.s(levels - 1)) for number in range(2)]
    return sum(part.result() for part in parts)


@app.task(base=DurableTask, bind=True)
def calls(self: Task) -> list:
    first = step.call("task", add.s(1, 2))
    second = step.call("chain", chain(add.s(1, 1), member.s(3), add.s(4)))
    third = step.call("chord", chord([add.s(1, 1), member.s(2), add.s(3, 3)], total.s()))
    fourth = step.call("group", group(add.s(number, number) for number in range(3)))
    step.run("after", work, self.request.id, "after")
    return [first, second, third, fourth]


@app.task(base=DurableTask, bind=True)
async def gathers(self: Task) -> dict:
    run = self.request.id
    a, b, _, event = await asyncio.gather(
        astep.run("a", work, run, "a", 0.1),
        astep.run("b", work, run, "b"),
        astep.sleep("nap", 0.5),
        astep.wait_for_event("approved", key=run, timeout=LONG, on_timeout="fail"),
    )
    assert event is not None
    return {"a": a, "b": b, "approved": event.payload, "after": await astep.run("after", work, run, "after")}


# ------------------------------------------------------------------- what goes wrong, and is undone


@app.task(base=DurableTask, bind=True)
def doomed(self: Task) -> None:
    run = self.request.id
    for name in ("reserve", "book"):
        step.on_rollback(f"undo-{name}", step_undo, run, f"undo-{name}")
        step.run(name, work, run, name)
    step.sleep("nap", 0.3)
    step.options(retry=Retry(max_attempts=2, delay=0.2)).run("charge", refuses, run)


def step_undo(run: str, name: str) -> str:
    return did(run, name)


def refuses(run: str) -> None:
    did(run, "charge")
    raise ValueError("no money")


@app.task(base=DurableTask, bind=True)
def cancelled(self: Task, seconds: float) -> None:
    """The producer cancels it."""
    run = self.request.id
    step.on_rollback("undo", step_undo, run, "undo")
    step.run("begin", work, run, "begin", seconds)
    step.call("child", sleeps_on.s())


@app.task(base=DurableTask, bind=True, run_timeout="3s")
def overdue(self: Task) -> None:
    run = self.request.id
    step.on_rollback("undo", step_undo, run, "undo")
    step.run("begin", work, run, "begin")
    step.sleep("long", LONG)


# ------------------------------------------------------------------- what runs share


@app.task(base=DurableTask, bind=True)
def locked(self: Task, account: int) -> int:
    """Reads in one step and writes in another: without the lock an addition is lost."""
    with step.lock("exclusive", f"account:{account}"):
        before = step.transaction("read", balance, account)
        step.run("think", work, self.request.id, "think", 0.02)
        step.transaction("write", deposit, account, before + 1)
    return before + 1


def balance(session: Any, account: int) -> int:
    return int(session.execute(text("SELECT amount FROM chaos_account WHERE id = :id"), {"id": account}).scalar_one())


def deposit(session: Any, account: int, amount: int) -> None:
    session.execute(text("UPDATE chaos_account SET amount = :amount WHERE id = :id"), {"id": account, "amount": amount})


@app.task(base=DurableTask, bind=True, concurrency=Concurrency(LIMIT))
def limited(self: Task) -> dict:
    run = self.request.id
    seen = {"one": step.run("one", work, run, "one", 0.2)}
    step.sleep("nap", 0.3)
    seen["two"] = step.run("two", work, run, "two", 0.2)
    return seen


@app.task(base=DurableTask, bind=True)
def counts(self: Task) -> int:
    step.state.increment("count")
    step.sleep("nap", 0.2)
    return step.state.increment("count")
