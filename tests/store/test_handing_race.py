"""Runs that end, and are cancelled, at the same moment as those that called them."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from celery_durable.model import FINISHED
from celery_durable.store.link import Link
from celery_durable.store.records import Aftermath, Changes, Claim
from celery_durable.store.store import Store

from .calling import a_call, called, calls_of, changed, done, ended, over, parked, step_of
from .making import claimed, put, run_row, step_rows, taken

CHILDREN = 40
WORKERS = 8
ROUNDS = 50
PATIENCE = 20.0
"""As a pass has it: a write that a deadlock hits is done again."""


def end_all(
    store: Store, children: list[str], failing: frozenset[str] = frozenset(), kind: str | None = None
) -> list[Aftermath | None]:
    """All of them end at once, on several connections; what each leaves to be done."""
    meeting = threading.Barrier(WORKERS)
    with store.link() as link:
        claims = {} if kind else {child: claimed(store, link, child) for child in children}

    def end(link: Link, child: str) -> Aftermath | None:
        status = "failed" if child in failing else "completed"
        if kind:
            return over(store, link, child, status, patience=PATIENCE)
        return ended(store, link, claims[child], status, patience=PATIENCE)

    def work(mine: list[str]) -> list[Aftermath | None]:
        with store.link() as link:
            meeting.wait(30)
            return [end(link, child) for child in mine]

    with ThreadPoolExecutor(WORKERS) as pool:
        shares = pool.map(work, [children[number::WORKERS] for number in range(WORKERS)])
        return [found for share in shares for found in share]


KINDS = pytest.mark.parametrize("kind", [None, "task"], ids=["runs", "tasks"])


@KINDS
@pytest.mark.parametrize("running", [False, True], ids=["parked", "running"])
def test_children_that_end_at_the_same_time_wake_their_caller_once(
    racing: Store, running: bool, kind: str | None
) -> None:
    store, children = racing, [f"c{number:02}" for number in range(CHILDREN)]
    with store.link() as link:
        if running:
            changed(store, link, taken(store, link), calls_of(*children, kind=kind))
        else:
            called(store, link, *children, quorum=CHILDREN, kind=kind)
        found = end_all(store, children, kind=kind)
        assert None not in found
        wakes = [after.wake for after in found if after is not None and after.wake]
        assert wakes == ([] if running else [("r1",)])
        assert {row["status"] for row in step_rows(store, link).values()} == {"completed"}
        row = run_row(store, link)
        assert (row["status"], row["quorum"]) == (("running", None) if running else ("suspended", 1))
        assert (row["waiting_on"] == "a worker") != running


@KINDS
def test_a_failure_among_them_is_heard_of(racing: Store, kind: str | None) -> None:
    store, children = racing, [f"c{number:02}" for number in range(CHILDREN)]
    with store.link() as link:
        called(store, link, *children, quorum=CHILDREN, kind=kind)
        found = end_all(store, children, failing=frozenset({"c07"}), kind=kind)
        assert [after.wake for after in found if after is not None and after.wake] == [("r1",)]
        assert run_row(store, link)["quorum"] == 1  # of the 39 others
        assert {name for name, row in step_rows(store, link).items() if row["status"] == "waiting"} == {"call c07"}


@pytest.mark.parametrize(("given_up", "quorum"), [("the call", None), ("the run", None), ("the run", 5)])
def test_a_task_that_ends_while_it_is_given_up(racing: Store, given_up: str, quorum: int | None) -> None:
    """Its report and the caller's pass, or the one who cancels, at the same moment: whoever is first."""
    store, luck, meeting = racing, random.Random(7), threading.Barrier(2)
    tasks = [f"c{number}" for number in range(ROUNDS)]
    delays = [apart(luck) for _ in tasks]

    def task_ends() -> list[Aftermath | None]:
        found = []
        with store.link() as link:
            for task, (_, delay) in zip(tasks, delays, strict=True):
                meeting.wait(30)
                threading.Event().wait(delay)
                found.append(over(store, link, task, patience=PATIENCE))
                meeting.wait(30)
        return found

    with ThreadPoolExecutor(1) as pool, store.link() as link:
        ends = pool.submit(task_ends)
        outcomes = []
        try:
            for task, (delay, _) in zip(tasks, delays, strict=True):
                caller = f"r-{task}"
                give_up = prepared_tasks(store, link, caller, task, given_up, quorum)
                meeting.wait(30)
                threading.Event().wait(delay)
                assert give_up() is not None
                meeting.wait(30)
                outcomes.append(outcome(store, link, caller, task))
        except BaseException:
            meeting.abort()
            raise
        for (task_status, step_status), end in zip(outcomes, ends.result(), strict=True):
            assert (task_status, step_status) in (("completed", "completed"), ("cancelled", "cancelled"))
            assert (end is not None) == (task_status == "completed")


def prepared_tasks(store: Store, link: Link, caller: str, task: str, given_up: str, quorum: int | None) -> Any:
    """A run that calls an ordinary task and others, and how the one is given up."""
    others = [f"{task}-{number}" for number in range(4)]
    if given_up == "the call":
        claim = taken(store, link, caller)
        changed(store, link, claim, calls_of(task, *others, parent=caller, kind="task"))
        row = a_call(task, known=True, status="cancelled")
        return lambda: changed(store, link, claim, Changes((row,), cancelled=(task,)))
    called(store, link, task, *others, parent=caller, quorum=quorum, kind="task")
    return lambda: store.cancel(link, caller, "not needed", force=True)


def apart(luck: random.Random) -> tuple[float, float]:
    """How much later than the other each of two comes."""
    by = luck.uniform(-0.004, 0.004)
    return max(0.0, by), max(0.0, -by)


@pytest.mark.parametrize("way", ["paused", "forced", "asked", "in its pass"])
def test_a_child_that_ends_while_its_caller_is_cancelled(racing: Store, way: str) -> None:
    """Whoever is first: the step has the child's answer and the child its own end, or neither was in time."""
    store, luck, meeting = racing, random.Random(3), threading.Barrier(2)
    delays = [apart(luck) for _ in range(ROUNDS)]
    children = [f"c{number}" for number in range(ROUNDS)]

    def child_ends() -> list[Aftermath | None]:
        found = []
        with store.link() as link:
            for child, (_, delay) in zip(children, delays, strict=True):
                meeting.wait(30)
                claim = claimed(store, link, child)
                meeting.wait(30)
                threading.Event().wait(delay)
                found.append(ended(store, link, claim, patience=PATIENCE))
                meeting.wait(30)
        return found

    with ThreadPoolExecutor(1) as pool, store.link() as link:
        ends = pool.submit(child_ends)
        outcomes = []
        try:
            for child, (delay, _) in zip(children, delays, strict=True):
                caller = f"r-{child}"
                cancel = prepared(store, link, caller, child, way)
                meeting.wait(30)
                meeting.wait(30)
                threading.Event().wait(delay)
                assert cancel() is not None
                meeting.wait(30)
                outcomes.append(outcome(store, link, caller, child))
        except BaseException:
            meeting.abort()
            raise
        for (child_status, step_status), end in zip(outcomes, ends.result(), strict=True):
            assert (end is not None) == (child_status == "completed")
            if child_status == "completed":
                # Either the answer came before the cancelling, or nobody asked for it any more.
                assert step_status in ("completed", "waiting", "cancelled")
            else:
                assert child_status == "suspended"  # asked, and the worker's end came too late
                assert step_status in ("waiting", "cancelled")
        if way == "asked":
            assert {status for status, _ in outcomes} == {"completed"}


def prepared(store: Store, link: Link, caller: str, child: str, way: str) -> Any:
    """A run that calls another, and how it is cancelled."""
    if way == "in its pass":
        claim = taken(store, link, caller)
        changed(store, link, claim, calls_of(child, parent=caller))
        given_up = Changes((a_call(child, known=True, status="cancelled"),), cancelled=(child,))
        return lambda: changed(store, link, claim, given_up)
    called(store, link, child, parent=caller)
    if way == "paused":
        put(store, link, caller, status="paused")
    return lambda: store.cancel(link, caller, "not needed", force=way == "forced")


def outcome(store: Store, link: Link, caller: str, child: str) -> tuple[str, str]:
    status = run_row(store, link, caller)["status"]
    assert status in (*FINISHED, "suspended", "running")
    return run_row(store, link, child)["status"], step_rows(store, link, caller)[step_of(child)]["status"]


def test_a_tree_is_cancelled_while_its_leaves_end(racing: Store) -> None:
    """Three deep, from both ends at once: no deadlock that is not got over, and nothing left open."""
    store, luck = racing, random.Random(5)

    def end(leaves: list[Claim], by: float) -> None:
        with store.link() as own:
            threading.Event().wait(by)
            for claim in leaves:
                ended(store, own, claim, patience=PATIENCE)

    with ThreadPoolExecutor(4) as pool, store.link() as link:
        for turn in range(10):
            root, middles = f"r{turn}", [f"m{turn}-{number}" for number in range(4)]
            called(store, link, *middles, parent=root, quorum=len(middles))
            claims = {middle: claims_below(store, link, middle) for middle in middles}
            ending = [pool.submit(end, claims[middle], luck.uniform(0, 0.01)) for middle in middles]
            threading.Event().wait(luck.uniform(0, 0.02))
            assert store.cancel(link, root, "not needed", force=True) is not None
            for one in ending:
                one.result()
            leaves = [claim.fence.run_id for below in claims.values() for claim in below]
            for run_id in [root, *middles, *leaves]:
                row = run_row(store, link, run_id)
                if row["status"] not in FINISHED:  # it is told, and ends in its body
                    assert (row["status"], row["cancelling"] is not None) == ("suspended", True)
                    assert row["due_at"] is not None
                    assert done(store, link, run_id, "cancelled", open_steps=True) is not None
            assert {run_row(store, link, run_id)["status"] for run_id in middles} <= FINISHED


def claims_below(store: Store, link: Link, middle: str) -> list[Claim]:
    """A run that calls three, which are in their bodies."""
    leaves = [f"{middle}-{number}" for number in range(3)]
    parked(store, link, claimed(store, link, middle), calls_of(*leaves, parent=middle), quorum=len(leaves))
    return [claimed(store, link, leaf) for leaf in leaves]
