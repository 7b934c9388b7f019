"""The failed attempts of a step, as they are kept for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celery_durable import Retry, step
from celery_durable.client.reading import Reader
from celery_durable.engine.executor import Failed, Finished
from celery_durable.model import AttemptRecord, StepRecord
from celery_durable.store.records import Deed
from celery_durable.store.store import Store

from .blocks import Started, child_of, end_child, fail, time_is_up
from .controls import Starting
from .driving import Driver


def read(driver: Driver) -> dict[str, StepRecord]:
    reader = Reader(lambda: driver.store, lambda value: value)
    return {one.id: one for one in reader.get("r1").steps}


def failing(times: int, error: Callable[[int], Exception] = lambda number: ValueError(f"no {number}")) -> Any:
    """Fails so often, and then does not."""
    calls: list[int] = []

    def work() -> int:
        calls.append(1)
        if len(calls) <= times:
            raise error(len(calls))
        return len(calls)

    return work


def told(tries: tuple[AttemptRecord, ...]) -> list[tuple[int, str, str]]:
    return [(one.number, one.error.type, one.error.message) for one in tries]


def check_times(found: StepRecord) -> None:
    """One attempt after the other."""
    last = None
    for one in found.tries:
        assert one.started_at is not None
        assert one.finished_at is not None
        assert (last or one.started_at) <= one.started_at <= one.finished_at
        last = one.finished_at


@pytest.mark.parametrize("delay", ["1h", 0])
def test_each_failed_attempt_is_kept_over_the_passes(start: Starting, delay: Any) -> None:
    work = failing(3)

    async def body(step: Any) -> Any:
        await step.options(retry=Retry(max_attempts=5, delay=delay)).run("s", work)
        return await step.run("then", int)

    driver = start(body)
    if delay:
        driver.one_pass()
        found = read(driver)["s"]
        assert (found.status, found.attempts, told(found.tries)) == ("waiting", 1, [(1, "ValueError", "no 1")])
        driver.let_time_pass()
    assert isinstance(driver.finish(), Finished)
    found = read(driver)["s"]
    assert (found.status, found.attempts, found.error, found.result) == ("completed", 4, None, 4)
    assert told(found.tries) == [(number, "ValueError", f"no {number}") for number in (1, 2, 3)]
    assert all(one.error.traceback is None for one in found.tries)
    check_times(found)
    assert found.started_at is not None
    assert found.tries[-1].finished_at is not None
    assert found.started_at >= found.tries[-1].finished_at
    assert read(driver)["then"].tries == ()


def test_the_last_error_stays_in_its_place(started: Started) -> None:
    work = failing(5)
    driver = started(lambda: step.options(retry=Retry(max_attempts=2, delay="1h")).run("s", work))
    assert isinstance(driver.finish(), Failed)
    found = read(driver)["s"]
    assert told(found.tries) == [(1, "ValueError", "no 1")]
    assert found.error is not None
    assert (found.error.message, found.attempts) == ("no 2", 2)
    assert found.error.traceback is not None


def test_a_heartbeat_and_a_worker_that_died_lose_none(started: Started) -> None:
    work = failing(2)

    def beats() -> Any:
        step.current().heartbeat(1)
        return work()

    driver = started(lambda: step.options(retry=Retry(max_attempts=5, delay="1h")).run("s", beats))
    assert isinstance(driver.finish(), Finished)
    assert [one.number for one in read(driver)["s"].tries] == [1, 2]


def test_branches_keep_theirs_and_secrets_are_taken_out(started: Started) -> None:
    one, other = failing(1, lambda _: ConnectionError("password=hunter2 is wrong")), failing(2)

    def body() -> None:
        with step.parallel() as p:
            p.run("one", one)
            p.run("other", other)
            p.run("fine", int)

    driver = started(body)
    driver.finish()
    found = read(driver)
    assert told(found["one"].tries) == [(1, "ConnectionError", "password=*** is wrong")]
    assert [one.number for one in found["other"].tries] == [1, 2]
    assert found["fine"].tries == ()


def test_an_undo_keeps_its_own(start: Starting) -> None:
    work = failing(1)

    async def body(step: Any) -> None:
        await step.on_rollback("undo", work)
        raise LookupError("no seat")

    driver = start(body)
    assert isinstance(driver.finish(), Failed)
    assert told(read(driver)["undo"].tries) == [(1, "ValueError", "no 1")]


def test_a_call_that_is_made_again_keeps_when_each_was(started: Started) -> None:
    def body() -> Any:
        return step.options(retry=Retry(max_attempts=3, delay="1h")).call("child", "another")

    driver = started(body)
    driver.one_pass()
    began = read(driver)["child"].started_at
    end_child(driver, "child", lambda: fail("out of order"))
    driver.one_pass()
    found = read(driver)["child"]
    assert told(found.tries) == [(1, "ValueError", "out of order")]
    assert found.tries[0].started_at == began is not None
    driver.let_time_pass()
    driver.one_pass()
    end_child(driver, "child", lambda: "fine")
    assert driver.value() == "fine"
    found = read(driver)["child"]
    assert (found.attempts, len(found.tries)) == (2, 1)
    check_times(found)
    assert child_of(driver, "child") == found.child


def test_a_call_that_takes_too_long_is_kept(started: Started) -> None:
    def body() -> Any:
        return step.options(timeout="1h", retry=Retry(max_attempts=2, delay="1h")).call("child", "another")

    driver = started(body)
    driver.one_pass()
    time_is_up(driver, "child")
    driver.one_pass()
    found = read(driver)["child"]
    assert [one.error.type for one in found.tries] == ["celery_durable.errors.StepTimeout"]
    check_times(found)


def test_a_retry_by_hand_keeps_what_was_before(store: Store, started: Started) -> None:
    work = failing(3)
    driver = started(lambda: step.options(retry=Retry(max_attempts=2, delay="1h")).run("s", work))
    assert isinstance(driver.finish(), Failed)
    with store.link() as link:
        assert store.retry_failed(link, "r1", Deed("retry", "anna")) == "retried"
    assert isinstance(driver.finish(), Finished)
    found = read(driver)["s"]
    assert told(found.tries) == [(number, "ValueError", f"no {number}") for number in (1, 2, 3)]
    assert (found.attempts, found.error) == (2, None)
    assert found.tries[1].started_at is not None
    assert found.tries[1].finished_at is None  # when the run failed for good, it is not known of the step any more


def test_a_replay_is_not_given_them(store: Store, started: Started) -> None:
    work = failing(1)

    def body() -> None:
        step.run("s", work)
        step.sleep("1h")

    driver = started(body)
    driver.one_pass()
    driver.let_time_pass()
    driver.one_pass()
    driver.let_time_pass()
    with store.link() as link:
        claim = store.claim(link, "r1", worker="w", lease=1)
    assert len(read(driver)["s"].tries) == 1
    assert claim.history["s"].tries is None  # type: ignore[union-attr]


def test_a_wait_that_is_given_up_keeps_its_beginning(started: Started) -> None:
    def body() -> None:
        with step.race() as r:
            r.wait_for_event("never", timeout="1d")
            r.sleep("nap", "1h")

    driver = started(body)
    driver.one_pass()
    began = read(driver)["never"].started_at
    time_is_up(driver, "nap")
    driver.value()
    found = read(driver)["never"]
    assert found.status == "cancelled"
    assert found.started_at == began is not None
    assert found.finished_at is not None
    assert found.finished_at > began
