"""What people do to runs: each operation in each status, copies, many at once, and forgetting; on every database."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from celery_durable import Retry, aio, step
from celery_durable.core.duration import SECOND
from celery_durable.core.retry import Retry as Policy
from celery_durable.engine.executor import Cancelled, Failed, Finished, Parked
from celery_durable.errors import RunNotFound, StartConflict, StepCancelled, StepNotFound, WrongStatus
from celery_durable.store.link import Link
from celery_durable.store.records import Claim, NewTurn
from celery_durable.store.store import Store
from tests.store.calling import called, changed, waiting_for
from tests.store.making import a_step, claimed, lease_of, new_run, put, run_row, step_rows, taken

from .operating import (
    LEASE,
    STATUSES,
    Clerk,
    all_rows,
    begin,
    done,
    driver_of,
    emitted,
    ended,
    fail,
    in_status,
    rows_of_run,
)

GOES_ON = ("pending", "running", "suspended")
ONCE = Retry(max_attempts=1)


WRONG = "wrong"
BECOMES: dict[str, dict[str, str]] = {
    "cancel": {
        "pending": "cancelled", "running": "suspended", "suspended": "suspended", "paused": "suspended",
        "stuck": "cancelled", "completed": WRONG, "failed": WRONG, "cancelled": "cancelled",
    },
    "force": dict.fromkeys(STATUSES, "cancelled") | {"completed": WRONG, "failed": WRONG},
    "pause": dict.fromkeys(STATUSES, "paused") | dict.fromkeys(("completed", "failed", "cancelled"), WRONG),
    "resume": {status: status for status in GOES_ON} | dict.fromkeys(("paused", "stuck"), "suspended")
    | dict.fromkeys(("completed", "failed", "cancelled"), WRONG),
    "retry": {status: status for status in GOES_ON} | dict.fromkeys(("paused", "stuck", "failed"), "suspended")
    | dict.fromkeys(("completed", "cancelled"), WRONG),
}  # fmt: skip


def act(clerk: Clerk, name: str) -> Callable[[str], Any]:
    return (lambda run_id: clerk.cancel(run_id, force=True)) if name == "force" else getattr(clerk, name)


@pytest.mark.parametrize("name", BECOMES)
def test_each_operation_in_each_status_and_again(store: Store, link: Link, clerk: Clerk, name: str) -> None:
    for status in STATUSES:
        in_status(store, link, status, status)
        before = run_row(store, link, status)
        expected = BECOMES[name][status]
        for turn in range(3):
            deeds = len(clerk.get(status).audit)
            row = run_row(store, link, status)
            if expected == WRONG:
                with pytest.raises(WrongStatus, match=f"'{status}' is {status}"):
                    act(clerk, name)(status)
            else:
                assert act(clerk, name)(status).status == expected, (name, status, turn)
            if expected == WRONG or before["status"] == expected:
                asked = name == "cancel" and status == "suspended" and turn == 0  # its status is the same
                assert asked or run_row(store, link, status) == row, "something was changed"
                assert asked or len(clerk.get(status).audit) == deeds
            elif turn == 0:
                of_its_worker = status == "running" and name in ("cancel", "pause")  # until its step has ended
                assert (run_row(store, link, status)["token"] == before["token"]) == of_its_worker
                assert clerk.get(status).audit[-1].action in (name, "cancel" if name == "force" else "resume")
    assert not set(clerk.followed.wake) - set(STATUSES)


def test_what_never_began_is_resumed_as_pending_and_keeps_its_time(store: Store, link: Link, clerk: Clerk) -> None:
    store.start(link, new_run(wake_in=3600 * SECOND))
    wake_at = run_row(store, link)["wake_at"]
    clerk.pause("r1", reason="not yet")
    assert clerk.get("r1").waiting_on == f"paused: by {clerk.get('r1').audit[0].actor}: not yet"
    run = clerk.resume("r1")
    row = run_row(store, link)
    assert (run.status, row["wake_at"], row["due_at"]) == ("pending", wake_at, wake_at)


def test_what_slept_sleeps_on_when_it_is_resumed(store: Store, clerk: Clerk) -> None:
    driver = driver_of(store, lambda: step.sleep("nap", "1h"))
    driver.start()
    driver.one_pass()
    wake_at = driver.run()["wake_at"]
    clerk.pause("r1")
    clerk.resume("r1")
    assert isinstance(driver.one_pass(), Parked)
    assert driver.run()["wake_at"] == wake_at


def test_a_run_that_is_being_cancelled_can_be_paused_and_is_cancelled_after(store: Store, clerk: Clerk) -> None:
    driver = driver_of(store, lambda: step.wait_for_event("w"))
    driver.start()
    driver.one_pass()
    clerk.cancel("r1", reason="enough")
    clerk.pause("r1")
    assert clerk.get("r1").cancelling is None
    assert clerk.resume("r1").cancelling == "enough"
    assert driver.one_pass() == Cancelled("enough")
    assert rows_of_run(store, "r1")["wait"] == 0


def test_an_event_that_comes_while_a_run_is_paused_is_there_after(store: Store, link: Link, clerk: Clerk) -> None:
    driver = driver_of(store, lambda: step.wait_for_event("w", "paid").id)
    driver.start()
    driver.one_pass()
    clerk.pause("r1")
    emitted(store, link, "paid", event_id="e1")
    assert clerk.get("r1").status == "paused"
    clerk.resume("r1")
    assert driver.one_pass() == Finished("e1")


# -- Retry


def test_a_retried_run_keeps_what_is_finished_and_does_what_failed_anew(store: Store, clerk: Clerk) -> None:
    done_: list[str] = []

    def note(name: str, fails: bool = False) -> str:
        done_.append(name)
        return fail(name) if fails else name

    failing = True

    def body() -> Any:
        first = step.run("first", note, "first")
        return [first, step.options(retry=Policy(max_attempts=2, delay=0)).run("second", note, "second", failing)]

    driver = driver_of(store, body)
    driver.start()
    assert isinstance(driver.finish(), Failed)
    failing = False
    run = clerk.retry("r1", by="ann")
    assert (run.status, run.restarts, run.error, run.finished_at) == ("suspended", 1, None, None)
    assert {one.id: (one.status, one.attempts) for one in run.steps} == {
        "first": ("completed", 1), "second": ("waiting", 0),
    }  # fmt: skip
    assert driver.one_pass() == Finished(["first", "second"])
    assert done_ == ["first", "second", "second", "second"]
    with pytest.raises(WrongStatus, match="completed"):
        clerk.retry("r1")


def test_a_run_that_failed_in_a_block_goes_on_to_its_end_when_it_is_retried(store: Store, clerk: Clerk) -> None:
    """What was cancelled because its sibling failed is wanted again."""
    failing = True

    def body() -> Any:
        with step.parallel() as p:
            event = p.wait_for_event("event", "paid")
            nap = p.sleep("nap", "1h")
            value = p.options(retry=ONCE).run("value", lambda: fail() if failing else 7)
        return [event.result().id, nap.result(), value.result()]

    driver = driver_of(store, body)
    driver.start()
    assert isinstance(driver.finish(), Failed)
    failing = False
    clerk.retry("r1")
    ended_as = driver.one_pass()
    assert not (isinstance(ended_as, Failed) and isinstance(ended_as.error, StepCancelled)), ended_as
    with store.link() as link:
        emitted(store, link, "paid", event_id="e1")
    assert driver.finish() == Finished(["e1", None, 7])


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.TaskGroup came with 3.11")
def test_a_retry_of_a_run_whose_task_group_failed(store: Store, clerk: Clerk) -> None:
    failing = True

    async def charge() -> int:
        return fail() if failing else 7

    async def body() -> Any:
        async with asyncio.TaskGroup() as group:
            value = group.create_task(aio.step.options(retry=ONCE).run("value", charge))
            nap = group.create_task(aio.step.sleep("nap", "1h"))
        return [value.result(), nap.result()]

    driver = driver_of(store, body)
    driver.start()
    assert isinstance(driver.finish(), Failed)
    failing = False
    clerk.retry("r1")
    assert driver.finish() == Finished([7, None])


def test_a_run_whose_time_was_up_has_its_time_anew_when_it_is_retried(store: Store, link: Link, clerk: Clerk) -> None:
    driver = driver_of(store, lambda: step.run("late", lambda: 1))
    driver.start()

    def one_pass(timeout: int) -> Any:
        claim = store.claim(link, "r1", worker="w", lease=LEASE, run_timeout=timeout)
        assert isinstance(claim, Claim)
        return driver.execute(link, claim)

    assert "run_timeout" in str(one_pass(0).error)
    assert clerk.retry("r1").deadline_at is None
    assert one_pass(3600 * SECOND) == Finished(1)


def test_a_pause_before_its_next_pass_does_not_take_a_retried_run_s_time(
    store: Store, link: Link, clerk: Clerk
) -> None:
    ended(store, link, taken(store, link), "failed")
    put(store, link, created_at=1)
    clerk.retry("r1")
    clerk.pause("r1")
    clerk.resume("r1")
    claim = store.claim(link, "r1", worker="w", lease=LEASE, run_timeout=3600 * SECOND)
    assert isinstance(claim, Claim)
    assert claim.deadline_at is not None
    assert claim.deadline_at > claim.now, "its time is counted from its very first start"


def test_a_run_that_was_rolled_back_can_t_go_on_from_what_was_undone(store: Store, clerk: Clerk) -> None:
    def body() -> None:
        step.on_rollback("undo", lambda: None)
        step.options(retry=ONCE).run("fails", fail)

    driver = driver_of(store, body)
    driver.start()
    assert isinstance(driver.finish(), Failed)
    for act in (clerk.retry, lambda run_id: clerk.fork(run_id, "fails")):
        with pytest.raises(WrongStatus, match=r"rolled back.*replay\(\)"):
            act("r1")
    assert clerk.get("r1").audit == ()
    assert clerk.replay("r1").status == "pending"


def test_what_a_retried_run_calls_again_is_another_run(store: Store, link: Link, clerk: Clerk) -> None:
    driver = driver_of(store, lambda: step.call("call", "below"))
    driver.start()
    driver.one_pass()
    (first,) = clerk.get("r1").children
    done(store, link, first, "failed")
    assert isinstance(driver.one_pass(), Failed)
    clerk.retry("r1")
    assert isinstance(driver.one_pass(), Parked)
    second = str(driver.steps()["call"]["child"])
    assert second != first
    assert set(clerk.get("r1").children) == {first, second}
    done(store, link, second)
    assert driver.one_pass() == Finished("done")


def test_the_late_mark_of_a_failure_s_delivery_is_not_the_retried_run_s(store: Store, link: Link, clerk: Clerk) -> None:
    """The worker that delivered the failure marks that in a batch, a moment later."""
    claim = taken(store, link)
    ended(store, link, claim, "failed")
    clerk.retry("r1")
    done(store, link, "r1")
    store.mark_delivered(link, [claim.fence])  # of the failure
    assert run_row(store, link)["due_at"] is not None, "nobody would deliver the result"


# -- Copies


def original(store: Store, link: Link) -> Claim:
    """A run with steps of all kinds that is at work."""
    begin(store, link, args=(1, {"a": "b"}))
    claim = claimed(store, link)
    changed(store, link, claim, waiting_for(claim, "open"))
    for number, name in enumerate(("first", "second", "third"), 1):
        assert store.record(link, claim.fence, a_step(name, position=number, seen=number), lease_of(claim))
    store.take_turn(link, claim.fence, a_step("lock", position=4, kind="lock"), NewTurn("l"), lease_of(claim))
    store.record(link, claim.fence, a_step("undo", position=5, kind="undo"), lease_of(claim))
    store.record(link, claim.fence, a_step("began", position=6, status="started", result=None), lease_of(claim))
    emitted(store, link, "open", event_id="e-open")
    store.record(link, claim.fence, a_step("last", position=7), lease_of(claim))
    return claim


def test_a_fork_has_what_came_before_and_nothing_else(store: Store, link: Link, clerk: Clerk) -> None:
    original(store, link)
    before = {name: rows for name, rows in all_rows(store).items() if "audit" not in name}
    fork = clerk.fork("r1", "last", task_id="f")
    ours, theirs = step_rows(store, link, "f"), step_rows(store, link)
    assert sorted(ours) == ["first", "open", "second", "third"]
    assert {name: row | {"run_id": "r1"} for name, row in ours.items()} == {name: theirs[name] for name in ours}
    assert rows_of_run(store, "f") == dict.fromkeys(rows_of_run(store, "f"), 0) | {
        "run": 1, "input": 1, "step": 4, "taken": 1,
    }  # fmt: skip
    assert (fork.status, fork.passes, fork.args, fork.forked_from, fork.forked_at) == (
        "pending", 0, [1, {"a": "b"}], "r1", "last",
    )  # fmt: skip
    assert sorted(step_rows(store, link, clerk.fork("r1", "second", task_id="g").id)) == ["first", "open"]
    assert rows_of_run(store, clerk.fork("r1", "open").id)["step"] == 0
    for name, rows in before.items():
        assert set(rows) <= set(all_rows(store)[name]), "the original has changed"
    assert clerk.followed.wake[0] == "f"


def test_a_fork_goes_on_from_there(store: Store, link: Link, clerk: Clerk) -> None:
    done_: list[str] = []

    def note(name: str) -> str:
        done_.append(name)
        return name

    def body() -> list[Any]:
        names = ("a", "b", "c")
        found: list[Any] = [step.run(name, note, name) for name in names]
        with step.lock("mine", "the lock"):
            found.append(step.run("d", note, "d"))
        return found

    driver = driver_of(store, body)
    driver.start()
    assert driver.value() == ["a", "b", "c", "d"]
    assert driver.value(clerk.fork("r1", "c").id) == ["a", "b", "c", "d"]
    assert driver.value(clerk.fork("r1", "d").id) == ["a", "b", "c", "d"]
    assert "".join(done_) == "abcd" + "cd" + "d"
    assert rows_of_run(store, "r1")["turn"] == 0


def test_copies_of_one_id_are_one_run(store: Store, link: Link, clerk: Clerk) -> None:
    original(store, link)
    for _ in range(3):
        assert clerk.fork("r1", "second", task_id="f").id == "f"
        assert clerk.replay("r1", task_id="p").id == "p"
        assert clerk.replay("r1", args=[5], task_id="q").args == [5]
    assert [deed.action for deed in clerk.get("r1").audit] == ["fork", "replay", "replay"]
    assert clerk.get("r1").copies == ("f", "p", "q")
    for task_id, kwargs in (("p", {"args": [6]}), ("q", {}), ("q", {"kwargs": {"x": 1}}), ("f", {"args": [1]})):
        with pytest.raises(StartConflict, match=r"other arguments|another origin"):
            clerk.replay("r1", task_id=task_id, **kwargs)
    store.start(link, new_run("other", task="other"))
    with pytest.raises(StartConflict, match="task other"):
        clerk.fork("r1", "second", task_id="other")
    assert len(clerk.get("r1").audit) == 3


@pytest.mark.parametrize("taken_id", ["f", "r1", "p"])
def test_an_id_that_another_copy_has_is_no_copy_of_this(store: Store, link: Link, clerk: Clerk, taken_id: str) -> None:
    """What is returned as the fork would be another run, with other steps: one from another step, or no fork at all."""
    original(store, link)
    clerk.fork("r1", "second", task_id="f")
    clerk.replay("r1", task_id="p")
    with pytest.raises(StartConflict):
        clerk.fork("r1", "last", task_id=taken_id)


def test_a_copy_needs_a_run_and_a_step(store: Store, link: Link, clerk: Clerk) -> None:
    original(store, link)
    with pytest.raises(StepNotFound, match="'nothing'"):
        clerk.fork("r1", "nothing", task_id="f")
    called(store, link, "plain", parent="caller", kind="task")
    for ask in (lambda: clerk.replay("plain"), lambda: clerk.fork("plain", "s"), lambda: clerk.get("f")):
        with pytest.raises(RunNotFound):
            ask()
    assert clerk.get("r1").audit == ()
