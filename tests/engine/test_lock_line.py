"""Runs in line for a lock: how they leave it, what can come between, and how they come into the block again."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from celery_durable.engine.control import RunRetry
from celery_durable.engine.executor import Cancelled, Failed, Finished, Parked
from celery_durable.store.records import Deed, NewRun, Origin
from celery_durable.store.store import Store

from .controls import ONCE, Starting, cancel, recover
from .test_lock import holds, leave, line, turns

# -- Leaving the line


@pytest.mark.parametrize("force", [False, True])
def test_a_cancelled_run_leaves_the_line(start: Starting, force: bool) -> None:
    (first, second, third), log = line(start, "r1", "r2", "r3")
    cancel(second, "r2", force=force)
    if not force:
        assert isinstance(second.one_pass("r2"), Cancelled)
    assert second.steps("r2")["mine"]["status"] == ("cancelled" if force else "failed")
    assert turns(first.store) == [("r1", "account-7", "has it"), ("r3", "account-7", "waits")]
    assert leave(first, "r1") == ["r3"]
    third.parks("r3")
    assert log == ["r1 enters", "r1 leaves", "r3 enters"]


@pytest.mark.parametrize("with_steps", [True, False])
def test_a_run_that_is_cancelled_when_its_turn_has_come_gives_the_lock_back(start: Starting, with_steps: bool) -> None:
    """Its body comes into the block, is told there or when it leaves it, and the next one has the lock."""

    async def body(step: Any, log: list[str]) -> None:
        async with step.lock("mine", "account-7"):
            if with_steps:
                await step.run("enter", lambda: log.append("entered"))

    (first,), log = line(start, "r1")
    second, third = (start(lambda step: body(step, log), run_id=run_id) for run_id in ("r2", "r3"))
    second.parks("r2")
    third.parks("r3")
    assert leave(first, "r1") == ["r2"]
    cancel(second, "r2")
    assert isinstance(second.one_pass("r2"), Cancelled)
    assert turns(first.store) == [("r3", "account-7", "waits")]
    assert second.let_in() == ["r3"]
    assert isinstance(third.one_pass("r3"), Finished)
    assert turns(first.store) == []


def test_a_run_that_is_cancelled_by_force_when_its_turn_has_come_lets_the_next_one_in(start: Starting) -> None:
    (first, second, _), _ = line(start, "r1", "r2", "r3")
    assert leave(first, "r1") == ["r2"]
    cancel(second, "r2", force=True)
    assert second.let_in() == ["r3"]


def test_a_body_that_cleans_up_may_take_a_lock(start: Starting) -> None:
    async def body(step: Any) -> None:
        try:
            await step.wait_for_event("never")
        finally:
            async with step.lock("mine", "account-7"):
                await step.run("tidy", int)

    (first,), _ = line(start, "r1")
    other = start(body, run_id="other")
    other.parks("other")
    cancel(other, "other")
    other.parks("other")
    assert turns(first.store)[1] == ("other", "account-7", "waits")
    assert leave(first, "r1") == ["other"]
    assert isinstance(other.one_pass("other"), Cancelled)
    assert other.steps("other")["tidy"]["status"] == "completed"
    assert turns(first.store) == []


# -- Passes in between


def test_a_message_too_many_leaves_the_run_in_its_place(start: Starting) -> None:
    """Brokers deliver twice: the pass finds that the lock is still held, and that it stands in line for it."""
    (first, second, third), log = line(start, "r1", "r2", "r3")
    assert second.one_pass("r2") == Parked("the lock 'account-7'")
    assert [run_id for run_id, _, _ in turns(first.store)] == ["r1", "r2", "r3"]
    assert leave(first, "r1") == ["r2"]
    second.parks("r2")
    assert third.one_pass("r3") == Parked("the lock 'account-7'")
    assert log == ["r1 enters", "r1 leaves", "r2 enters"]


def test_a_worker_that_dies_with_the_run_in_line(start: Starting) -> None:
    (first, second), log = line(start, "r1", "r2")
    with first.store.link() as link:
        first.store.claim(link, "r2", worker="dies", lease=1)
    recover(second, "r2")
    assert second.one_pass("r2") == Parked("the lock 'account-7'")
    assert leave(first, "r1") == ["r2"]
    second.parks("r2")
    assert log == ["r1 enters", "r1 leaves", "r2 enters"]


def test_a_lock_that_is_given_back_while_another_run_gets_into_line(
    start: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has looked, and seen that the lock is held; when it is about to stand in line, it is free."""
    (first,), log = line(start, "r1")
    plain = Store.take_turn

    def look_and_wait(self: Store, *args: Any, **kwargs: Any) -> bool | None:
        found = plain(self, *args, **kwargs)
        if found is False and first.run("r1")["status"] != "completed":
            with ThreadPoolExecutor(1) as pool:  # another worker
                assert pool.submit(leave, first, "r1").result() == []
        return found

    monkeypatch.setattr(Store, "take_turn", look_and_wait)
    second = start(lambda step: holds(step, log), run_id="r2")
    assert "nap" in second.parks("r2").waiting_on
    assert turns(first.store) == [("r2", "account-7", "has it")]
    assert log == ["r1 enters", "r1 leaves", "r2 enters"]


def test_who_is_told_by_nobody_is_found_by_the_sweeper(start: Starting) -> None:
    """The worker of the first has died right after it gave the lock back."""
    (first, second, third), _ = line(start, "r1", "r2", "r3")
    store = first.store
    first.let_time_pass("r1")
    first.one_pass("r1")
    with store.link() as link:
        assert store.free_locks(link, 10) == ["account-7"]
        assert [store.next_turn(link, "account-7") for _ in range(2)] == ["r2", None]
    second.parks("r2")
    assert third.run("r3")["due_at"] is None


# -- Into the block again


async def fails_inside(step: Any, log: list[str], again: Callable[[Exception], Any]) -> str:
    """Its step fails; and then the run is retried, as by a person or by Celery."""
    async with step.lock("mine", "account-7"):
        try:
            found = await step.options(retry=ONCE).run("charge", lambda: charge(log))
        except ConnectionError as error:
            again(error)
            raise
    return str(found)


def charge(log: list[str]) -> str:
    log.append("charges")
    if len(log) == 1:
        raise ConnectionError("refused")
    return "charged"


def celery_retries(error: Exception) -> None:
    raise RunRetry(error, 1)


@pytest.mark.parametrize("way", ["inside", "outside", "by hand"])
def test_a_run_that_is_retried_is_not_in_the_block_without_the_lock(start: Starting, way: str) -> None:
    """Its lock was given back when its step failed, and another run has it now."""
    log: list[str] = []

    async def body(step: Any) -> str:
        try:
            return await fails_inside(step, log, celery_retries if way == "inside" else lambda error: None)
        except ConnectionError as error:
            if way == "outside":
                raise RunRetry(error, 1) from None
            raise

    driver = start(body, run_id="retried")
    ended = driver.one_pass("retried")
    if way == "by hand":
        assert isinstance(ended, Failed)
        with driver.store.link() as link:
            assert driver.store.retry_failed(link, "retried", Deed("retry", "a person")) == "retried"
    else:
        assert isinstance(ended, Parked)
    if turns(driver.store) == []:  # else it has kept the lock, which is as good
        (other,), _ = line(start, "other")
        driver.let_time_pass("retried")
        ended = driver.one_pass("retried")
        assert log == ["charges"], "it was in the block while another run had the lock"
        assert isinstance(ended, Parked)
        assert leave(other, "other") == ["retried"]
    driver.let_time_pass("retried")
    assert driver.value("retried") == "charged"
    assert log == ["charges", "charges"]
    assert turns(driver.store) == []


def test_a_fork_from_inside_the_block_is_not_in_it_without_the_lock(start: Starting) -> None:
    (first,), log = line(start, "r1")
    with first.store.link() as link:
        new = NewRun("fork", "t", "[[],{}]", "h", "{}")
        assert first.store.start_copy(link, Origin("r1", "nap"), lambda _: new, Deed("fork", "a person")) == "started"
    fork = start(lambda step: holds(step, log), run_id="another start")
    ended = fork.one_pass("fork")
    assert turns(first.store)[0] == ("r1", "account-7", "has it")
    assert ended == Parked("the lock 'account-7'"), ended
