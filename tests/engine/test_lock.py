"""``step.lock``: one run at a time is in the block, and the others are parked in line."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from celery_durable import DuplicateStep, NotInDurableTask, Retry, step
from celery_durable.engine.executor import Cancelled, Failed, Finished, Gone, Parked
from celery_durable.store.store import Store
from tests.waiting import wait_until

from .controls import ONCE, Fed, Starting, cancel, counted, recover
from .driving import Driver
from .test_events import rows
from .test_rollback import broken


async def holds(step: Any, log: list[str]) -> str:
    """It has the lock while it sleeps."""
    async with step.lock("mine", "account-7"):
        run_id = await step.run("enter", lambda: step_of_current(log, "enters"))
        await step.sleep("nap", "1h")
        await step.run("leave", lambda: step_of_current(log, "leaves"))
    await step.run("after", int)
    return str(run_id)


def step_of_current(log: list[str], what: str) -> str:
    run_id = step.current().run_id
    log.append(f"{run_id} {what}")
    return run_id


def line(start: Starting, *run_ids: str) -> tuple[list[Fed], list[str]]:
    """Runs of which the first has the lock, and the others stand in line for it; and what they log."""
    log: list[str] = []
    drivers = [start(lambda step: holds(step, log), run_id=run_id) for run_id in run_ids]
    for driver, run_id in zip(drivers, run_ids, strict=True):
        driver.parks(run_id)
        time_goes_on(driver.store)  # who arrives within one millisecond has no order
    return drivers, log


def time_goes_on(store: Store) -> None:
    with store.link() as link:
        before = store.now(link)
        wait_until(lambda: store.now(link) > before)


def turns(store: Store) -> list[tuple[str, str, str]]:
    """Who has which lock, and who waits for one."""
    found = sorted(rows(store, "turn"), key=lambda row: row.asked_at)
    return [(row.run_id, row.name, "has it" if row.until is not None else "waits") for row in found]


def time_is_up(store: Store, run_id: str) -> None:
    """The time for which a run may have its locks."""
    with store.engine.begin() as connection:
        turn = store.tables.turn
        connection.execute(turn.update().where(turn.c.run_id == run_id, turn.c.until.is_not(None)).values(until=1))


def leave(driver: Fed, run_id: str) -> list[str]:
    """Its sleep is over, and it leaves the block; the runs that have its lock now."""
    driver.let_time_pass(run_id)
    assert isinstance(driver.one_pass(run_id), Finished)
    return driver.let_in()


# -- Free, held, given back


def test_a_free_lock_is_taken_at_once_and_given_back_at_the_end_of_the_block(start: Starting) -> None:
    seen: list[Any] = []

    async def body(step: Any) -> str:
        async with step.lock("mine", "account-7"):
            await step.run("look", lambda: seen.append(turns(driver.store)))
        return "done"

    driver = start(body)
    assert driver.one_pass() == Finished("done")
    assert seen == [[("r1", "account-7", "has it")]]
    assert turns(driver.store) == []
    assert driver.kinds() == [("mine", "lock"), ("look", "run"), ("mine/release", "unlock")]
    assert {row["status"] for row in driver.steps().values()} == {"completed"}


def test_a_lock_that_is_held_parks_the_run_for_as_long_as_it_takes(start: Starting) -> None:
    (_, second), log = line(start, "r1", "r2")
    run = second.run("r2")
    assert (run["status"], run["waiting_on"]) == ("suspended", "the lock 'account-7'")
    assert (run["due_at"], run["wake_at"]) == (None, None)  # nobody looks again and again
    assert second.dispatcher.announced == ["the lock 'account-7'"]
    assert second.steps("r2")["mine"]["status"] == "waiting"
    assert turns(second.store) == [("r1", "account-7", "has it"), ("r2", "account-7", "waits")]
    assert log == ["r1 enters"]


def test_a_lock_goes_to_the_next_in_the_order_of_arrival(start: Starting) -> None:
    names = ["d", "b", "c", "a"]
    drivers, log = line(start, *names)
    store = drivers[0].store
    for number, name in enumerate(names):
        following = names[number + 1 : number + 2]
        assert leave(drivers[number], name) == following
        for run_id in following:
            run = drivers[0].run(run_id)
            assert (run["status"], run["due_at"] is not None) == ("suspended", True)
            drivers[number + 1].parks(run_id)  # in the block
        assert [run_id for run_id, _, _ in turns(store)] == names[number + 1 :]
    assert log == [f"{name} {what}" for name in names for what in ("enters", "leaves")]


def test_who_comes_late_does_not_push_in_before_those_in_line(start: Starting) -> None:
    (first, second), log = line(start, "r1", "r2")
    first.let_time_pass("r1")
    assert isinstance(first.one_pass("r1"), Finished)  # and nobody has been let in yet
    late = start(lambda step: holds(step, log), run_id="late")
    late.parks("late")
    assert turns(first.store) == [("r2", "account-7", "waits"), ("late", "account-7", "waits")]
    assert first.let_in() == ["r2"]
    second.parks("r2")
    assert log == ["r1 enters", "r1 leaves", "r2 enters"]


def test_locks_of_other_names_are_free(start: Starting) -> None:
    line(start, "r1")

    async def body(step: Any) -> None:
        for number, name in enumerate(["account-8", "Account-7", "account-7x", "äccount-7"]):
            async with step.lock(f"lock-{number}", name):
                pass

    assert isinstance(start(body, run_id="other").one_pass("other"), Finished)


def test_a_lock_is_given_back_by_an_error_and_before_anything_is_undone(start: Starting) -> None:
    seen: list[Any] = []

    async def body(step: Any) -> None:
        await step.on_rollback("undo", lambda: seen.append(turns(driver.store)))
        async with step.lock("mine", "account-7"):
            await step.options(retry=ONCE).run("fails", broken)

    driver = start(body)
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, ConnectionError)
    assert seen == [[]]
    assert driver.dispatcher.followed.freed == ("account-7",)
    assert driver.steps()["mine/release"]["status"] == "completed"


@pytest.mark.parametrize("end", ["returns", "fails", "is cancelled", "is ended by force"])
def test_a_lock_that_nobody_gives_back_is_free_when_the_run_ends(store: Store, end: str) -> None:
    def body() -> None:
        manager = step.lock("mine", "account-7")
        manager.__enter__()
        kept.append(manager)  # so that it is not left by the garbage collector
        if "is" in end:
            step.sleep("nap", "1h")
        if end == "fails":
            raise LookupError("no")

    kept: list[Any] = []
    driver = Fed(store, body)
    driver.start()
    if "is" in end:
        driver.parks()
        cancel(driver, force="force" in end)
    if "force" not in end:
        driver.one_pass()
    assert driver.run()["status"] == {"returns": "completed", "fails": "failed"}.get(end, "cancelled")
    assert turns(store) == []
    assert driver.dispatcher.followed.freed == ("account-7",)
    assert driver.let_in() == []
    for manager in kept:
        with contextlib.suppress(BaseException):
            manager.gen.close()


def test_a_lock_is_held_while_the_run_is_parked_in_the_block(start: Starting) -> None:
    calls: list[int] = []

    def fails_once() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("again")

    async def body(step: Any) -> None:
        async with step.lock("mine", "account-7"):
            await step.options(retry=Retry(delay="1h", jitter=False)).run("flaky", fails_once)
            await step.sleep("nap", "1h")
            await step.wait_for_event("never", timeout="1h")

    driver = start(body)
    for _ in range(3):
        driver.parks()
        assert turns(driver.store) == [("r1", "account-7", "has it")]
        driver.let_time_pass()
    assert isinstance(driver.one_pass(), Finished)
    assert turns(driver.store) == []
    assert [kind for _, kind in driver.kinds()] == ["lock", "run", "sleep", "wait", "unlock"]


def test_a_lock_that_is_recorded_costs_no_statement(start: Starting) -> None:
    async def body(step: Any, locks: int) -> None:
        for number in range(locks):
            async with step.lock(f"lock-{number}", f"account-{number}"):
                pass
        await step.sleep("nap", "1h")

    costs = []
    for locks in (1, 10):
        driver = start(body, run_id=f"r{locks}")
        driver.parks(f"r{locks}", locks)
        driver.let_time_pass(f"r{locks}")
        with counted(driver.store.engine) as statements:
            assert isinstance(driver.one_pass(f"r{locks}", locks), Finished)
        costs.append(len(statements))
    assert costs[0] == costs[1] <= 3


# -- For a while


def test_a_lock_is_free_when_its_time_is_over(start: Starting) -> None:
    async def body(step: Any) -> None:
        async with step.lock("mine", "account-7", ttl="10m"):
            await step.sleep("nap", "1h")

    first, second, third = (start(body, run_id=run_id) for run_id in ("r1", "r2", "r3"))
    for driver, run_id in ((first, "r1"), (second, "r2")):
        driver.parks(run_id)
    store = first.store
    with store.link() as link:
        assert store.free_locks(link, 10) == []
        assert store.next_turn(link, "account-7") is None
        time_is_up(store, "r1")
        assert store.free_locks(link, 10) == ["account-7"]  # what the sweeper sees
        assert store.next_turn(link, "account-7") == "r2"
        assert store.free_locks(link, 10) == []
    second.parks("r2")
    first.let_time_pass("r1")
    assert isinstance(first.one_pass("r1"), Finished)
    assert first.dispatcher.followed.freed == ()  # it was not its own any more
    assert turns(store) == [("r2", "account-7", "has it")]
    third.parks("r3")
    assert leave(second, "r2") == ["r3"]


def test_a_lock_whose_time_is_over_is_taken_at_once_where_nobody_waits(start: Starting) -> None:
    async def body(step: Any) -> None:
        async with step.lock("mine", "account-7", ttl="10m"):
            await step.sleep("nap", "1h")

    first, second = (start(body, run_id=run_id) for run_id in ("r1", "r2"))
    first.parks("r1")
    time_is_up(first.store, "r1")
    second.parks("r2")
    assert turns(first.store) == [("r2", "account-7", "has it")]


@pytest.mark.parametrize("ttl", [0, -1, "soon"])
def test_a_time_for_which_nothing_can_be_held_is_refused(start: Starting, ttl: Any) -> None:
    async def body(step: Any) -> None:
        async with step.lock("mine", "account-7", ttl=ttl):
            pass

    driver = start(body)
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, ValueError)
    assert driver.steps() == {}


# -- Several


def test_several_locks_at_once(start: Starting) -> None:
    seen: list[Any] = []

    async def body(step: Any) -> None:
        async with step.lock("outer", "a"), step.lock("inner", "b"):
            await step.run("look", lambda: seen.append(turns(driver.store)))

    driver = start(body)
    assert isinstance(driver.one_pass(), Finished)
    assert seen == [[("r1", "a", "has it"), ("r1", "b", "has it")]]
    assert [name for name, _ in driver.kinds()] == ["outer", "inner", "look", "inner/release", "outer/release"]
    assert turns(driver.store) == []


def test_a_run_that_takes_a_lock_that_it_has_waits_for_itself(start: Starting) -> None:
    """A lock is not one's own a second time: the run is parked, says for what, and can be cancelled."""

    async def body(step: Any) -> None:
        async with step.lock("outer", "a"), step.lock("inner", "a"):
            pass

    driver = start(body)
    assert driver.parks() == Parked("the lock 'a'")
    assert [name for name, _ in driver.kinds()] == ["outer", "inner"]
    cancel(driver)
    assert isinstance(driver.one_pass(), Cancelled)
    assert turns(driver.store) == []


def test_a_lock_can_be_taken_again_after_it_was_given_back(start: Starting) -> None:
    async def body(step: Any) -> str:
        for number in range(3):
            async with step.lock(f"turn-{number}", "a"):
                await step.sleep(f"nap-{number}", "1h")
        return "done"

    driver = start(body)
    assert driver.value() == "done"
    assert turns(driver.store) == []


# -- Misuse


def test_an_id_that_is_used_twice(start: Starting) -> None:
    async def body(step: Any) -> None:
        for _ in range(2):
            async with step.lock("mine", "a"):
                pass

    driver = start(body)
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, DuplicateStep)
    assert turns(driver.store) == []


@pytest.mark.parametrize(
    ("id", "name"), [("x" * 255, "a"), ("", "a"), ("mine", ""), ("mine", "a\n"), ("mine", "x" * 256)]
)
def test_ids_and_names_that_can_not_be_are_told_before_the_lock_is_taken(start: Starting, id: str, name: str) -> None:
    entered: list[str] = []

    async def body(step: Any) -> None:
        async with step.lock(id, name):
            entered.append("the block")

    driver = start(body)
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, ValueError)
    assert entered == []
    assert driver.steps() == {}


def test_a_lock_is_taken_in_the_body_of_a_run(store: Store) -> None:
    with pytest.raises(NotInDurableTask, match=r"step\.lock was called in "):
        step.lock("mine", "a")
    driver = Driver(store, lambda: step.options(retry=ONCE).run("outer", lambda: step.lock("mine", "a")))
    driver.start()
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert "step.lock was called inside the step 'outer'" in str(ended.error)


def test_a_worker_that_has_lost_its_run_takes_no_lock_and_gives_none_back(start: Starting) -> None:
    async def takes(step: Any) -> None:
        await step.run("taken", lambda: recover(driver, "takes"))
        async with step.lock("mine", "a"):
            entered.append("takes")

    async def gives(step: Any) -> None:
        async with step.lock("mine", "a"):
            await step.sleep("nap", "1h")
            recover(driver, "gives")

    entered: list[str] = []
    driver = start(takes, run_id="takes")
    assert isinstance(driver.one_pass("takes"), Gone)
    assert entered == []
    assert turns(driver.store) == []
    driver = start(gives, run_id="gives")
    driver.parks("gives")
    driver.let_time_pass("gives")
    assert isinstance(driver.one_pass("gives"), Gone)
    assert turns(driver.store) == [("gives", "a", "has it")]
