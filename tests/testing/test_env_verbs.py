"""What bodies ask for, in an environment: retries, branches, locks, state, calls of other tasks."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from celery_durable import (
    Concurrency,
    NonRetryable,
    Retry,
    RetryAfter,
    aio,
    on_event,
    on_schedule,
    step,
)
from celery_durable.testing import DurableEnv

from .conftest import Declare

HOURLY = Retry(max_attempts=3, delay="1h", backoff=2.0, max_delay="1d", jitter=False)


def flaky(attempts: int) -> int:
    attempt: int = step.current().attempt
    if attempt < attempts:
        raise ConnectionError(f"attempt {attempt}")
    return attempt


# ------------------------------------------------------------------------ retries


def test_retries_with_their_backoff(env: DurableEnv, durable: Declare) -> None:
    @durable
    def retries() -> Any:
        return step.options(retry=HOURLY).run("flaky", flaky, 3)

    run = env.start(retries)
    assert (run.status, run.step("flaky").attempts) == ("suspended", 1)
    env.advance("59m59s")
    assert run.step("flaky").attempts == 1
    env.advance("1s")
    assert run.step("flaky").attempts == 2
    env.advance("1h59m59s")
    assert run.step("flaky").attempts == 2
    env.advance("1s")
    run.assert_completed(3)


def test_jitter_is_none_so_that_tests_end_in_the_same_way(env: DurableEnv, durable: Declare) -> None:
    @durable
    def retries() -> Any:
        return step.options(retry=Retry(max_attempts=3, delay="10m", backoff=1.0)).run("flaky", flaky, 3)

    run = env.start(retries)
    env.advance("19m59s")
    run.assert_status("suspended")
    env.advance("1s")
    run.assert_completed(3)


def test_the_last_attempt_fails(env: DurableEnv, durable: Declare) -> None:
    @durable(step_retry=HOURLY)
    def fails() -> Any:
        return step.run("flaky", flaky, 9)

    run = env.start(fails)
    env.run_until_idle()
    run.assert_failed(ConnectionError)
    assert run.step("flaky").attempts == 3


def test_errors_that_say_when_and_whether(env: DurableEnv, durable: Declare) -> None:
    def says() -> str:
        if step.current().attempt == 1:
            raise RetryAfter("2d")
        raise NonRetryable("no more")

    @durable
    def obeys() -> Any:
        return step.run("says", says)

    run = env.start(obeys)
    env.advance("47h")
    run.assert_status("suspended")
    env.advance("1h")
    run.assert_failed("no more")


def test_autoretry_of_the_whole_run(env: DurableEnv, durable: Declare) -> None:
    passes: list[int] = []

    @durable(
        autoretry_for=(LookupError,),
        max_retries=2,
        retry_backoff=60,
        retry_jitter=False,
        step_retry=Retry(max_attempts=1),
    )
    def retried() -> Any:
        step.run("before", passes.append, 1)
        return step.run("find", find)

    def find() -> str:
        passes.append(2)
        if len(passes) < 4:
            raise LookupError("nothing there")
        return "found"

    run = env.start(retried)
    run.assert_status("suspended")
    env.advance("60s")
    run.assert_status("suspended")
    env.advance("120s")
    run.assert_completed("found")
    assert passes == [1, 2, 2, 2]


def test_a_run_timeout(env: DurableEnv, durable: Declare) -> None:
    tidied: list[int] = []

    @durable(run_timeout="2d")
    def slow() -> None:
        try:
            step.wait_for_event("never")
        finally:
            step.run("tidy", tidied.append, 1)

    run = env.start(slow)
    env.advance("47h")
    run.assert_status("suspended")
    env.run_until_idle()
    assert (run.status, tidied) == ("failed", [1]) or run.status == "cancelled"
    run.assert_steps("never", "tidy")


# ------------------------------------------------------------------------ blocks


def test_blocks(env: DurableEnv, durable: Declare) -> None:
    @durable
    def blocks() -> Any:
        with step.parallel() as p:
            first = p.run("first", int, "1")
            event = p.wait_for_event("paid", timeout="1d")
            nap = p.sleep("nap", "1h")
        with step.race() as r:
            r.wait_for_event("never")
            slow = r.sleep("slow", "1h")
        assert r.winner is slow
        found = event.result()
        return [first.result(), nap.result(), found and found.payload, step.map("squares", abs, [-1, -2], limit=1)]

    run = env.start(blocks)
    run.assert_waiting_on("2 branches")
    env.emit("paid", 5)
    env.advance("2h")
    run.assert_completed([1, None, 5, [1, 2]])


def test_async_bodies_take_no_real_time(env: DurableEnv, durable: Declare) -> None:
    async def slowly(hours: float) -> float:
        await asyncio.sleep(hours * 3600)
        return hours

    @durable
    async def gathers() -> Any:
        found = await asyncio.gather(
            aio.step.run("two", slowly, 2), aio.step.run("one", slowly, 1), aio.step.sleep("nap", "1h")
        )
        try:
            await asyncio.wait_for(aio.step.wait_for_event("never"), 3600)
        except asyncio.TimeoutError:
            found.append("timeout")
        async with asyncio.timeout(60) if hasattr(asyncio, "timeout") else aio.step.lock("l", "n"):
            found.append(await aio.step.map("squares", slowly, [0.001, 0.002]))
        return found

    began, real = env.now, time.monotonic()
    run = env.start(gathers)
    env.run_until_idle()
    run.assert_completed([2, 1, None, "timeout", [0.001, 0.002]])
    assert (env.now - began).total_seconds() >= 3 * 3600
    assert time.monotonic() - real < 600  # three hours and more, were they waited for


def test_a_function_that_takes_longer_than_its_step_may(env: DurableEnv, durable: Declare) -> None:
    async def slowly() -> None:
        await asyncio.sleep(3600)

    @durable
    async def impatient() -> Any:
        await aio.step.options(timeout="1m", retry=Retry(max_attempts=1)).run("slow", slowly)

    run = env.start(impatient)
    run.assert_failed("slow")


# ------------------------------------------------------------------------ others


def test_lines_of_concurrency(env: DurableEnv, durable: Declare) -> None:
    inside: list[str] = []

    def enter(name: str) -> None:
        inside.append(name)

    @durable(concurrency=Concurrency(1, key="shop"))
    def one_by_one(shop: str, name: str) -> None:
        step.run("enter", enter, name)

    @durable
    def starts() -> None:
        step.run("start", lambda: [one_by_one.delay("s", name).id for name in "abc"])

    env.start(starts)
    assert sorted(inside) == ["a", "b", "c"]
    assert {run.status for run in env.runs} == {"completed"}


def test_locks_and_their_ttl(env: DurableEnv, durable: Declare) -> None:
    @durable
    def locks(hours: int) -> str:
        with step.lock("mine", "shop", ttl="10h"):
            step.sleep("nap", f"{hours}h")
        return "had it"

    first, second, third = (env.start(locks, hours) for hours in (1, 30, 1))
    second.assert_waiting_on("lock")
    env.advance("1h")
    first.assert_completed()
    second.assert_waiting_on("nap")
    third.assert_waiting_on("lock")
    env.advance("10h")
    third.assert_waiting_on("nap")
    env.run_until_idle()
    third.assert_completed("had it")


def test_state_is_the_tasks_and_of_one_environment(app: Any, durable: Declare) -> None:
    @durable
    def counts() -> Any:
        return step.state.increment("count")

    for _ in range(2):
        with DurableEnv(app) as env:
            assert [env.start(counts).result for _ in range(3)] == [1, 2, 3]


def test_continue_as_new(env: DurableEnv, durable: Declare) -> None:
    done: list[int] = []

    @durable
    def pages(page: int = 0) -> Any:
        step.run("page", done.append, page)
        step.sleep("1h")
        if page < 3:
            step.continue_as_new(page + 1)
        return page

    run = env.start(pages)
    env.advance("3h30m")
    assert (done, run.record.generation) == ([0, 1, 2, 3], 3)
    env.run_until_idle()
    run.assert_completed(3)


def test_triggers(env: DurableEnv, durable: Declare) -> None:
    @durable(triggers=[on_event("kit-customer.*", when={"plan": "pro"})])
    def welcome(event: Any) -> Any:
        step.sleep("1d")
        return event.payload["name"]

    env.emit("kit-customer.created", {"plan": "free", "name": "a"})
    env.emit("kit-customer.created", {"plan": "pro", "name": "b"}, event_id="e")
    env.emit("kit-customer.created", {"plan": "pro", "name": "b"}, event_id="e")
    [run] = env.runs
    env.run_until_idle()
    run.assert_completed("b")


def test_an_event_of_a_step_starts_a_run(env: DurableEnv, durable: Declare) -> None:
    @durable(triggers=[on_event("kit-order.paid")])
    def ship(event: Any) -> Any:
        return event.payload

    @durable
    def order() -> Any:
        step.emit("tell", "kit-order.paid", {"n": 1})

    env.start(order)
    assert [(run.record.task, run.status) for run in env.runs] == [("order", "completed"), ("ship", "completed")]


def test_schedules(env: DurableEnv, durable: Declare) -> None:
    @durable(triggers=[on_schedule(3600.0, args=("hourly",))])
    def reports(name: str) -> Any:
        return [name, step.now().minute]

    env.follow_schedule(reports)
    env.advance("5h30m")
    assert len(env.runs) in (5, 6)
    env.run_until_idle()
    assert {run.status for run in env.runs} == {"completed"}
    assert len(env.runs) in (5, 6)
