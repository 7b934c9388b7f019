"""Cancelling runs, and all that they have called: on every database alike."""

from __future__ import annotations

from typing import Any

import pytest

from celery_durable.core.faults import read_error
from celery_durable.errors import CallFailed
from celery_durable.store.link import Link
from celery_durable.store.records import Aftermath, Changes, Claim, Deed, NotClaimed, Outcome, StepWrite
from celery_durable.store.store import Store

from .calling import a_call, called, calls_of, changed, done, ended, open_waits, parked, step_of, waiting_for
from .making import LEASE, a_step, claimed, lease_of, new_run, put, run_row, step_rows, taken

NOTHING = Aftermath()


def handed_back(store: Store, link: Link, claim: Claim, *steps: StepWrite, **marks: Any) -> tuple[str, str] | None:
    """What a pass does that finds its run stopped, and has these outcomes."""
    assert store.is_held(link, claim.fence) == (run_row(store, link, claim.fence.run_id)["token"] == claim.fence.token)
    return store.hand_back(link, claim.fence, steps, marks.get("marks", {}))


def status(store: Store, link: Link, run_id: str = "r1") -> str:
    return str(run_row(store, link, run_id)["status"])


def test_a_run_that_never_began_ends_at_once_and_is_delivered(store: Store, link: Link) -> None:
    store.start(link, new_run())
    token = run_row(store, link)["token"]
    assert store.cancel(link, "r1", "not needed") == Aftermath(wake=("r1",))
    row = run_row(store, link)
    assert (row["status"], row["delivered_at"], row["waiting_on"]) == ("cancelled", None, None)
    assert row["token"] != token
    assert row["finished_at"] is not None
    assert 0 < row["due_at"] - store.now(link) <= 3_000_000
    found = store.claim(link, "r1", worker="w/1", lease=LEASE)  # who delivers it
    assert isinstance(found, Outcome)
    assert found.status == "cancelled"
    store.mark_delivered(link, [found.fence])
    assert run_row(store, link)["due_at"] is None


@pytest.mark.parametrize("before", ["suspended", "asleep"])
def test_a_run_in_its_body_is_asked(store: Store, link: Link, before: str) -> None:
    claim = taken(store, link)
    changed(store, link, claim, waiting_for(claim, "paid"))
    parked(store, link, claim, wake_at=claim.now + LEASE if before == "asleep" else None, quorum=3)
    assert store.cancel(link, "r1", "not needed") == Aftermath(wake=("r1",))
    row = run_row(store, link)
    assert (row["status"], row["cancelling"], row["waiting_on"]) == ("suspended", "not needed", "its cancelling")
    assert (row["wake_at"], row["quorum"], row["sends"]) == (None, None, 0)
    assert 0 < row["due_at"] - store.now(link) <= 3_000_000
    assert store.record(link, claim.fence, a_step("stale"), lease_of(claim)) is False
    assert ended(store, link, claim) is None
    assert open_waits(store, link) == {"paid"}  # the body withdraws it
    assert claimed(store, link).cancelling == "not needed"


def test_a_run_with_a_step_under_way_is_asked_when_that_is_recorded(store: Store, link: Link) -> None:
    claim = taken(store, link)
    changed(store, link, claim, waiting_for(claim, "paid"))
    assert store.cancel(link, "r1", "not needed") == Aftermath(wake=("r1",))
    row = run_row(store, link)
    assert (row["status"], row["cancelling"]) == ("suspended", "not needed")
    assert row["wake_at"] == row["due_at"] == claim.now + LEASE, "the lease of its worker, who may die"
    assert isinstance(store.claim(link, "r1", worker="w/2", lease=LEASE), NotClaimed)
    assert store.record(link, claim.fence, a_step("late"), lease_of(claim)) is False
    assert ended(store, link, claim) is None
    assert handed_back(store, link, claim, a_step("late", position=1)) == ("suspended", "its cancelling")
    row = run_row(store, link)
    assert row["wake_at"] <= store.now(link)
    assert 0 < row["due_at"] - store.now(link) <= 3_000_000
    assert handed_back(store, link, claim, a_step("too late", position=2)) is None
    told = claimed(store, link)
    assert (told.cancelling, set(told.history)) == ("not needed", {"paid", "late"})


def test_what_is_under_way_is_recorded_of_a_run_that_is_paused(store: Store, link: Link) -> None:
    claim = taken(store, link)
    assert store.record(link, claim.fence, a_step("known", status="started", result=None), lease_of(claim))
    lease_until = run_row(store, link)["due_at"]
    assert store.pause_by_hand(link, "r1", Deed("pause", "anna"))
    row = run_row(store, link)
    assert (row["status"], row["due_at"], row["wake_at"]) == ("paused", None, lease_until)
    steps = [a_step("known", known=True), a_step("new", position=1)]
    assert handed_back(store, link, claim, *steps, marks={"known": 7}) == ("paused", "paused: by anna")
    rows = step_rows(store, link)
    assert {name: row["status"] for name, row in rows.items()} == {"known": "completed", "new": "completed"}
    assert rows["known"]["seen"] == 7
    assert store.resume_by_hand(link, "r1", Deed("resume", "anna"))
    assert set(claimed(store, link).history) == {"known", "new"}


def test_a_run_that_is_resumed_too_early_is_its_workers(store: Store, link: Link) -> None:
    """Until its lease ends, which is extended meanwhile."""
    claim = taken(store, link)
    store.pause_by_hand(link, "r1", Deed("pause", "anna"))
    store.extend(link, [claim.fence], 2 * LEASE)
    store.resume_by_hand(link, "r1", Deed("resume", "anna"))
    row = run_row(store, link)
    assert (row["status"], row["waiting_on"]) == ("suspended", "the step that is under way")
    assert row["due_at"] == row["wake_at"] > claim.now + LEASE
    store.extend(link, [claim.fence], 3 * LEASE)
    assert run_row(store, link)["due_at"] > claim.now + 2 * LEASE
    put(store, link, wake_at=claim.now)
    assert claimed(store, link).fence != claim.fence
    assert handed_back(store, link, claim, a_step("too late")) is None


def test_an_end_of_a_run_that_is_asked_is_its_bodys(store: Store, link: Link) -> None:
    parked(store, link, taken(store, link))
    store.cancel(link, "r1", "x" * 900)
    claim = claimed(store, link)
    assert claim.cancelling == "x" * 500
    assert ended(store, link, claim, "cancelled", error="{}") == NOTHING
    assert status(store, link) == "cancelled"


@pytest.mark.parametrize("forced", [False, True], ids=["paused", "forced"])
def test_a_run_without_a_body_to_tell_ends_at_once_with_what_it_called(store: Store, link: Link, forced: bool) -> None:
    claim = taken(store, link)
    changed(store, link, claim, waiting_for(claim, "paid"))
    changed(store, link, claim, calls_of("c", "d"))
    claimed(store, link, "d")
    if not forced:
        put(store, link, status="paused", due_at=None)
    found = store.cancel(link, "r1", "not needed", force=forced)
    assert found is not None
    assert (found.wake[0], sorted(found.wake), found.revoke) == ("r1", ["c", "d", "r1"], ())
    assert (status(store, link), status(store, link, "c"), status(store, link, "d")) == (
        "cancelled", "cancelled", "suspended",
    )  # fmt: skip
    assert open_waits(store, link) == set()
    assert store.record(link, claim.fence, a_step("stale"), lease_of(claim)) is False


def test_an_ordinary_task_is_over_and_revoked(store: Store, link: Link) -> None:
    called(store, link, "t", kind="task")
    assert store.cancel(link, "t", "not needed") == Aftermath(wake=("r1",), revoke=("t",))
    row = run_row(store, link, "t")
    assert (row["status"], row["due_at"], row["wake_at"]) == ("cancelled", None, None)
    assert row["delivered_at"] is not None
    assert store.end_from_outside(link, "t", status="completed", result='"late"') is None
    assert step_rows(store, link)[step_of("t")]["result"] is None


@pytest.mark.parametrize("state", ["running", "paused", "pending"])
def test_cancelling_twice_is_cancelling_once(store: Store, link: Link, state: str) -> None:
    store.start(link, new_run())
    if state != "pending":
        claim = claimed(store, link)
        put(store, link, status=state)
    assert store.cancel(link, "r1", "first") == Aftermath(wake=("r1",))
    found = store.cancel(link, "r1", "second")
    assert found is None
    if state == "running":
        assert handed_back(store, link, claim) is not None
        assert claimed(store, link).cancelling == "first"


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
def test_nothing_is_to_be_cancelled(store: Store, link: Link, end: str) -> None:
    assert store.cancel(link, "nowhere", "x") is None
    ended(store, link, taken(store, link), end)
    before = run_row(store, link)
    assert store.cancel(link, "r1", "x") is None
    assert store.cancel(link, "r1", "x", force=True) is None
    assert run_row(store, link) == before


@pytest.mark.parametrize(
    ("before", "quorum", "woken"),
    [("pending", None, True), ("pending", 2, True), ("paused", 2, True), ("task", 2, True), ("running", 2, False)],
)
def test_the_caller_learns_of_the_end(store: Store, link: Link, before: str, quorum: int | None, woken: bool) -> None:
    """What was called is cancelled by itself: its caller's step has failed, once it has ended."""
    called(store, link, "c", "d", quorum=quorum, kind="task" if before == "task" else None)
    claim = None
    if before in ("paused", "running"):
        claim = claimed(store, link, "c")
        put(store, link, "c", status=before)
    found = store.cancel(link, "c", "not needed")
    assert found is not None
    assert ("r1" in found.wake) == woken
    if not woken:
        assert step_rows(store, link)["call c"]["child"] == "c"
        assert claim is not None
        assert handed_back(store, link, claim) is not None
        assert done(store, link, "c", "cancelled", error='{"type":"celery_durable.errors.RunCancelled"}') == Aftermath(
            wake=("r1",)
        )
    row = step_rows(store, link)["call c"]
    assert (row["status"], row["child"]) == ("waiting", None)
    error = read_error(row["error"], CallFailed)
    assert isinstance(error, CallFailed)
    assert str(error) == "the run c, which step 'call c' called, was cancelled"
    assert run_row(store, link)["due_at"] is not None
    assert status(store, link, "d") == "pending"


@pytest.mark.parametrize("caller", ["running", "paused", "cancelled"])
def test_a_caller_that_does_not_sleep_is_not_woken(store: Store, link: Link, caller: str) -> None:
    called(store, link, "c")
    put(store, link, status=caller, due_at=None)
    assert store.cancel(link, "c", "x") == Aftermath(wake=("c",))
    row = run_row(store, link)
    assert (row["status"], row["due_at"]) == (caller, None)


# -- A whole tree: r1 calls a and b, a calls a1 and a2, b calls b1, and b1 calls b11


def tree(store: Store, link: Link) -> dict[str, Claim]:
    """All of it, with a1 and b11 in their bodies, and a2 a task."""
    called(store, link, "a", "b")
    claims = {name: claimed(store, link, name) for name in ("a", "b")}
    a1, a2, b1 = calls_of("a1", parent="a"), calls_of("a2", parent="a", kind="task"), calls_of("b1", parent="b")
    parked(store, link, claims["a"], Changes((*a1.steps, *a2.steps), calls=(*a1.calls, *a2.calls)), quorum=2)
    parked(store, link, claims["b"], b1)
    claims["b1"] = claimed(store, link, "b1")
    parked(store, link, claims["b1"], calls_of("b11", parent="b1"))
    claims |= {name: claimed(store, link, name) for name in ("a1", "b11")}
    return claims


def statuses(store: Store, link: Link) -> dict[str, Any]:
    return {name: status(store, link, name) for name in ("r1", "a", "b", "a1", "a2", "b1", "b11")}


def withdrawn(store: Store, link: Link, run_id: str, *children: str, under_way: Claim | None = None) -> Aftermath:
    """A body that is told of its cancelling gives up what it called, and ends."""
    if under_way is not None:
        assert handed_back(store, link, under_way) == ("suspended", "its cancelling")
    claim = claimed(store, link, run_id)
    assert claim.cancelling is not None
    rows = tuple(a_call(child, known=True, status="cancelled") for child in children)
    found = changed(store, link, claim, Changes(rows, cancelled=children)) if children else NOTHING
    assert isinstance(found, Aftermath)
    end = ended(store, link, claim, "cancelled")
    assert end is not None
    return found + end


def test_a_tree_is_cancelled_from_the_top(store: Store, link: Link) -> None:
    """Each body is told by the one that called it, and tells what it called."""
    claims = tree(store, link)
    assert store.cancel(link, "r1", "not needed") == Aftermath(wake=("r1",))
    assert withdrawn(store, link, "r1", "a", "b") == Aftermath(wake=("a", "b"))
    assert withdrawn(store, link, "a", "a1", "a2") == Aftermath(wake=("a1",), revoke=("a2",))
    assert withdrawn(store, link, "b", "b1") == Aftermath(wake=("b1",))
    assert withdrawn(store, link, "b1", "b11") == Aftermath(wake=("b11",))
    assert withdrawn(store, link, "a1", under_way=claims["a1"]) == NOTHING
    assert withdrawn(store, link, "b11", under_way=claims["b11"]) == NOTHING
    assert set(statuses(store, link).values()) == {"cancelled"}


def test_a_tree_of_runs_that_are_paused_ends_as_one(store: Store, link: Link) -> None:
    claims = tree(store, link)
    for name in ("r1", "a", "b", "b1"):
        put(store, link, name, status="paused")
    found = store.cancel(link, "r1", "not needed")
    assert found is not None
    assert (sorted(found.wake), found.revoke) == (["a", "a1", "b", "b1", "b11", "r1"], ("a2",))
    assert statuses(store, link) == {
        "r1": "cancelled", "a": "cancelled", "b": "cancelled", "b1": "cancelled", "a2": "cancelled",
        "a1": "suspended", "b11": "suspended",
    }  # fmt: skip
    for name in ("a1", "b11"):
        assert run_row(store, link, name)["cancelling"] == "the run that called it has ended"
        assert withdrawn(store, link, name, under_way=claims[name]) == NOTHING


def test_a_forced_end_tells_the_bodies_below(store: Store, link: Link) -> None:
    claims = tree(store, link)
    assert store.cancel(link, "a", "not needed", force=True) == Aftermath(wake=("a", "a1", "r1"), revoke=("a2",))
    assert statuses(store, link) == {
        "r1": "suspended", "a": "cancelled", "b": "suspended", "b1": "suspended", "a2": "cancelled",
        "a1": "suspended", "b11": "running",
    }  # fmt: skip
    assert store.record(link, claims["a1"].fence, a_step("stale"), lease_of(claims["a1"])) is False
    assert store.record(link, claims["b11"].fence, a_step("goes on"), lease_of(claims["b11"]))
    assert claimed(store, link).history["call a"].child is None
