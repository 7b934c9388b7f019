"""A run that is paused, resumed or cancelled while a step's function is executed: that is let finish, and recorded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from celery_durable import step
from celery_durable.engine.executor import Cancelled, Gone, Parked
from celery_durable.store.records import Claim, Deed, Fence, NotClaimed
from celery_durable.store.store import Store

from .controls import ONCE, Fed, Starting, cancel, put
from .driving import LEASE, Driver
from .test_events import dispatch, emit

HAND = Deed("pause", "anna")


def pause(driver: Driver) -> None:
    with driver.store.link() as link:
        assert driver.store.pause_by_hand(link, "r1", HAND)


def resume(driver: Driver) -> None:
    with driver.store.link() as link:
        assert driver.store.resume_by_hand(link, "r1", HAND)


def claim(driver: Driver) -> Any:
    with driver.store.link() as link:
        return driver.store.claim(link, "r1", worker="other/1", lease=LEASE)


def parked(driver: Driver, status: str = "suspended") -> Parked:
    ended = driver.one_pass()
    assert isinstance(ended, Parked), ended
    assert ended.status == status
    return ended


class Charging:
    """A body that charges a card, while something is done to its run, and refunds it if it is cancelled."""

    def __init__(self, start: Starting, meanwhile: Callable[[Driver], Any], **options: Any) -> None:
        self.log: list[str] = []
        self.meanwhile: list[Callable[[Driver], Any]] = [meanwhile]
        self.driver: Fed = start(self.body)
        self.options = options

    async def body(self, step: Any) -> str:
        await step.options(**self.options).run("charge", self.charge)
        await step.on_rollback("refund", self.log.append, "refund")
        await step.run("ship", self.log.append, "ship")
        return "shipped"

    def charge(self) -> str:
        self.log.append("charge")
        while self.meanwhile:
            self.meanwhile.pop()(self.driver)
        return "charged"


def test_what_takes_effect_while_the_run_is_cancelled_is_undone(start: Starting) -> None:
    """Else a card is charged by a run that has ended, and whose undos are done."""
    case = Charging(start, cancel)
    assert parked(case.driver).waiting_on == "its cancelling"
    assert case.driver.steps()["charge"]["status"] == "completed"
    assert case.driver.dispatcher.followed.wake == ("r1", "r1"), "the one who cancels, and the one who ends its step"
    assert isinstance(case.driver.one_pass(), Cancelled)
    assert case.log == ["charge", "refund"]


def test_a_run_that_is_cancelled_in_its_last_step_is_cancelled(start: Starting) -> None:
    """Though its body has nothing more to ask for, where it could be told."""
    log: list[str] = []

    async def body(step: Any) -> str:
        await step.on_rollback("undo", log.append, "undo")
        await step.run("last", lambda: cancel(driver))
        return "done"

    driver = start(body)
    parked(driver)
    assert driver.one_pass() == Cancelled("not needed any more")
    assert log == ["undo"]


def test_a_step_that_is_executed_while_the_run_is_paused_is_done_once(start: Starting) -> None:
    case = Charging(start, pause)
    assert parked(case.driver, "paused").waiting_on == "paused: by anna"
    assert case.driver.run()["due_at"] is None
    resume(case.driver)
    assert case.driver.value() == "shipped"
    assert case.log == ["charge", "ship"]


def test_a_run_that_is_resumed_before_its_step_has_ended_is_nobody_elses(start: Starting) -> None:
    def both(driver: Driver) -> None:
        pause(driver)
        resume(driver)
        assert isinstance(claim(driver), NotClaimed)
        assert driver.run()["waiting_on"] == "the step that is under way"

    case = Charging(start, both)
    assert parked(case.driver).waiting_on == "its turn"
    assert case.driver.value() == "shipped"
    assert case.log == ["charge", "ship"]


@pytest.mark.parametrize("between", [[], [resume]], ids=["paused", "resumed"])
def test_a_run_that_is_paused_and_then_cancelled_in_one_step(start: Starting, between: list[Any]) -> None:
    case = Charging(start, cancel)
    case.meanwhile += [*between, pause]
    assert parked(case.driver).waiting_on == "its cancelling"
    assert isinstance(case.driver.one_pass(), Cancelled)
    assert case.log == ["charge", "refund"]


def test_a_run_that_is_cancelled_and_then_paused_in_one_step(start: Starting) -> None:
    case = Charging(start, pause)
    case.meanwhile.append(cancel)
    assert parked(case.driver, "paused").waiting_on == "paused: by anna"
    resume(case.driver)
    assert isinstance(case.driver.one_pass(), Cancelled)
    assert case.log == ["charge", "refund"]


def test_a_run_that_is_cancelled_by_force_has_ended(start: Starting) -> None:
    case = Charging(start, lambda driver: cancel(driver, force=True))
    assert isinstance(case.driver.one_pass(), Gone)
    assert case.driver.run()["status"] == "cancelled"
    assert case.driver.steps() == {}


def test_an_attempt_that_fails_while_the_run_is_paused_has_been_made(start: Starting) -> None:
    def fails(driver: Driver) -> None:
        pause(driver)
        raise ConnectionError("no answer")

    case = Charging(start, fails)
    parked(case.driver, "paused")
    row = case.driver.steps()["charge"]
    assert (row["status"], row["attempts"]) == ("waiting", 1)
    resume(case.driver)
    assert case.driver.value() == "shipped"
    assert case.log == ["charge", "charge", "ship"]


def test_what_fails_for_good_while_the_run_is_cancelled_has_failed(start: Starting) -> None:
    def fails(driver: Driver) -> None:
        cancel(driver)
        raise ConnectionError("no answer")

    case = Charging(start, fails, retry=ONCE)
    parked(case.driver)
    assert case.driver.steps()["charge"]["status"] == "failed"


def test_a_step_that_runs_at_most_once_is_not_in_doubt_because_its_run_was_paused(start: Starting) -> None:
    case = Charging(start, pause, at_most_once=True)
    parked(case.driver, "paused")
    resume(case.driver)
    assert case.driver.value() == "shipped"
    assert case.log == ["charge", "ship"]


def test_a_worker_that_dies_in_the_step_leaves_the_run_to_the_next_one(start: Starting, store: Store) -> None:
    """When its lease has ended; and what it would still write comes too late."""
    taken: list[Any] = []

    def lost(driver: Driver) -> None:
        cancel(driver)
        assert isinstance(claim(driver), NotClaimed)
        put(store, "run", wake_at=1)
        taken.append(claim(driver))

    case = Charging(start, lost)
    assert isinstance(case.driver.one_pass(), Gone)
    assert isinstance(taken[0], Claim)
    assert taken[0].cancelling == "not needed any more"
    assert case.driver.run()["status"] == "running"
    assert case.driver.steps() == {}


def test_the_lease_of_a_run_that_was_stopped_is_kept_while_its_step_goes_on(start: Starting, store: Store) -> None:
    def kept(driver: Driver) -> None:
        cancel(driver)
        put(store, "run", wake_at=1, due_at=1)
        with store.link() as link:
            store.extend(link, [Fence("r1", driver.run()["token"])], LEASE)
        row = driver.run()
        assert row["due_at"] == row["wake_at"] > 1
        assert isinstance(claim(driver), NotClaimed)

    case = Charging(start, kept)
    parked(case.driver)
    assert case.driver.steps()["charge"]["status"] == "completed"


def test_an_event_does_not_take_the_run_from_the_step_that_is_under_way(store: Store) -> None:
    def charge() -> str:
        cancel(driver)
        dispatch(store, emit(store, "go"))
        assert isinstance(claim(driver), NotClaimed)
        return "charged"

    def body() -> None:
        with step.parallel() as block:
            block.wait_for_event("go")
            block.run("charge", charge)

    driver = Driver(store, body)
    driver.start()
    parked(driver)
    assert driver.steps()["charge"]["status"] == "completed"


def test_functions_of_a_block_that_are_at_work_are_all_let_finish(store: Store) -> None:
    both_begun = threading.Barrier(3)
    let_go = threading.Event()
    log: list[str] = []

    def work(name: str, last: bool) -> str:
        both_begun.wait(10)
        assert not last or let_go.wait(10)
        log.append(name)
        return name

    def stops() -> None:
        both_begun.wait(10)
        cancel(driver)
        threading.Timer(0.05, let_go.set).start()

    def body() -> None:
        with step.parallel() as block:
            block.run("stops", stops)
            block.run("a", work, "a", False)
            block.run("b", work, "b", True)
        step.on_rollback("undo", log.append, "undo")
        step.run("more", log.append, "more")

    driver = Driver(store, body)
    driver.start()
    parked(driver)
    assert {name: row["status"] for name, row in driver.steps().items()} == dict.fromkeys(
        ("stops", "a", "b"), "completed"
    )
    assert isinstance(driver.one_pass(), Cancelled)
    assert sorted(log[:2]) == ["a", "b"]
    assert log[2:] == ["undo"]


@pytest.mark.parametrize("in_group", [False, True], ids=["gather", "TaskGroup"])
def test_functions_of_an_event_loop_that_are_at_work_are_all_let_finish(store: Store, in_group: bool) -> None:
    if in_group and not hasattr(asyncio, "TaskGroup"):
        pytest.skip("Python 3.11 has task groups")
    from celery_durable.aio import step

    begun = threading.Barrier(2)
    let_go = threading.Event()
    log: list[str] = []

    async def stops() -> None:
        await asyncio.to_thread(begun.wait, 10)
        cancel(driver)
        threading.Timer(0.1, let_go.set).start()

    def slow(name: str) -> str:
        begun.wait(10)
        assert let_go.wait(10)
        log.append(name)
        return name

    async def body() -> None:
        if in_group:
            async with asyncio.TaskGroup() as group:
                group.create_task(step.run("stops", stops))
                group.create_task(step.run("slow", slow, "slow"))
        else:
            await asyncio.gather(step.run("stops", stops), step.run("slow", slow, "slow"))
        await step.on_rollback("undo", log.append, "undo")
        await step.run("more", log.append, "more")

    driver = Driver(store, body)
    driver.start()
    parked(driver)
    assert {row["status"] for row in driver.steps().values()} == {"completed"}
    assert isinstance(driver.one_pass(), Cancelled)
    assert log == ["slow", "undo"]


def test_a_step_that_sends_heartbeats_ends_at_the_next_one(store: Store) -> None:
    log: list[str] = []

    def long() -> None:
        log.append(f"from {step.current().last_heartbeat}")
        if len(log) == 1:
            step.current().heartbeat(1)
            pause(driver)
            step.current().heartbeat(2)
        log.append("ended")

    driver = Driver(store, lambda: step.run("long", long))
    driver.start()
    parked(driver, "paused")
    resume(driver)
    driver.value()
    assert log == ["from None", "from 1", "ended"]


def test_a_transaction_that_is_under_way_is_taken_back_and_done_again(postgresql_url: str) -> None:
    store = Store(postgresql_url)
    store.migrate()
    log: list[str] = []

    def change(session: Any) -> None:
        values = {"name": f"row {len(log)}"}
        session.execute(text("INSERT INTO durable_lease (name, holder, until) VALUES (:name, 'x', 0)"), values)
        log.append("change")
        if len(log) == 1:
            pause(driver)

    driver = Driver(store, lambda: step.transaction("change", change))
    driver.start()
    parked(driver, "paused")
    assert driver.steps() == {}
    resume(driver)
    driver.value()
    assert log == ["change", "change"]
    with store.engine.connect() as connection:
        found = connection.execute(text("SELECT name FROM durable_lease WHERE holder = 'x'")).scalars().all()
    assert found == ["row 1"]
    store.engine.dispose()
