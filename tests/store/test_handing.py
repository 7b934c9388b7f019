"""How a run starts others, waits for them, and is told of their end: on every database alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celery_durable.store.link import Link
from celery_durable.store.records import Aftermath, Changes, Overtaken, Parent
from celery_durable.store.statements.base import UNDER_WAY
from celery_durable.store.store import Store

from .calling import (
    PARKING,
    a_call,
    a_wait,
    called,
    calls_of,
    changed,
    done,
    emit,
    ended,
    open_waits,
    over,
    parked,
    together,
    waiting_for,
)
from .making import LEASE, a_step, claimed, lease_of, new_run, put, run_row, stale, step_rows, taken

NOTHING = Aftermath()

# -- Change: a pass writes what concerns others, and goes on


def test_steps_new_and_known_are_written_together(store: Store, link: Link) -> None:
    claim = taken(store, link)
    store.record(link, claim.fence, a_step("old", status="waiting", result=None), lease_of(claim))
    steps = (a_step("new", position=1), a_step("old", known=True, result="2"), a_step("newer", position=2))
    assert changed(store, link, claim, Changes(steps=steps)) == NOTHING
    rows = step_rows(store, link)
    assert {name: (row["status"], row["result"]) for name, row in rows.items()} == {
        "old": ("completed", "2"),
        "new": ("completed", "1"),
        "newer": ("completed", "1"),
    }
    assert run_row(store, link)["token"] == claim.fence.token


def test_several_known_steps_are_settled_at_once(store: Store, link: Link) -> None:
    claim = taken(store, link)
    for step_id in ("a", "b"):
        store.record(link, claim.fence, a_step(step_id, status="started", result=None), lease_of(claim))
    settled = tuple(a_step(step_id, known=True, result=f'"{step_id}"') for step_id in ("a", "b"))
    assert changed(store, link, claim, Changes(steps=settled)) == NOTHING
    assert {name: row["result"] for name, row in step_rows(store, link).items()} == {"a": '"a"', "b": '"b"'}


def test_the_order_of_answers_is_kept(store: Store, link: Link) -> None:
    claim = taken(store, link)
    for step_id in ("a", "b", "c"):
        store.record(link, claim.fence, a_step(step_id), lease_of(claim))
    assert changed(store, link, claim, Changes(marks=(("b", 1), ("a", -2)))) == NOTHING
    assert {name: row["seen"] for name, row in step_rows(store, link).items()} == {"a": -2, "b": 1, "c": None}
    parked(store, link, claim, Changes(marks=(("c", 3),)))
    assert claimed(store, link).history["c"].seen == 3


def test_a_wait_is_registered(store: Store, link: Link) -> None:
    claim = taken(store, link)
    assert changed(store, link, claim, waiting_for(claim, "paid", "sent")) == NOTHING
    assert open_waits(store, link) == {"paid", "sent"}
    assert step_rows(store, link)["paid"]["status"] == "waiting"
    assert run_row(store, link)["status"] == "running"


@pytest.mark.parametrize("how", ["change", "suspend", "suspend for one"])
def test_an_event_that_is_there_takes_all_of_it_back(store: Store, link: Link, how: str) -> None:
    claim = taken(store, link)
    store.record(link, claim.fence, a_step("old", status="waiting", result=None), lease_of(claim))
    emit(store, link, "sent")
    before = run_row(store, link), step_rows(store, link)
    wait = waiting_for(claim, *(["sent"] if how == "suspend for one" else ["paid", "sent"]))
    more = calls_of("c")
    steps = (*wait.steps, *more.steps, a_step("old", known=True))
    changes = wait if how == "suspend for one" else Changes(steps, (("old", 1),), wait.waits, more.calls)
    if how == "change":
        found = changed(store, link, claim, changes)
    else:
        found = store.suspend(link, claim.fence, changes=changes, **PARKING)
    assert isinstance(found, Overtaken)
    assert {step: event.name for step, event in found.events.items()} == {"sent": "sent"}
    assert (run_row(store, link), step_rows(store, link)) == before
    assert open_waits(store, link) == set()
    assert store.get(link, "c") is None


def test_one_event_answers_one_of_two_waits(store: Store, link: Link) -> None:
    claim = taken(store, link)
    emit(store, link, "paid")
    wait = waiting_for(claim, "paid")
    again = ("again", wait.waits[0][1])
    both = Changes((*wait.steps, a_wait("again", position=1)), waits=(*wait.waits, again))
    found = store.suspend(link, claim.fence, changes=both, **PARKING)
    assert isinstance(found, Overtaken)
    assert list(found.events) == ["paid"]


def test_what_is_called_is_started(store: Store, link: Link) -> None:
    claim = taken(store, link)
    before = store.now(link)
    assert changed(store, link, claim, calls_of("c", "d")) == Aftermath(wake=("c", "d"))
    row = run_row(store, link, "c")
    assert (row["status"], row["parent_id"], row["parent_step"], row["kind"]) == ("pending", "r1", "call c", None)
    assert row["arguments"] == "[[1],{}]"
    assert row["due_at"] >= before
    assert step_rows(store, link)["call c"]["child"] == "c"
    child = claimed(store, link, "c")
    assert (child.parent, child.message) == (("r1", "call c"), '{"queue":"q"}')


def test_what_is_called_later_is_not_sent_now(store: Store, link: Link) -> None:
    claim = taken(store, link)
    changes = calls_of("c", wake_in=1_000_000, due_in=500_000)
    assert changed(store, link, claim, changes) == NOTHING
    assert run_row(store, link, "c")["wake_at"] is not None


def test_waits_that_are_withdrawn_are_dropped(store: Store, link: Link) -> None:
    claim = taken(store, link)
    changed(store, link, claim, waiting_for(claim, "paid", "sent"))
    given_up = a_wait("paid", known=True, status="cancelled")
    assert changed(store, link, claim, Changes(steps=(given_up,), withdrawn=("paid",))) == NOTHING
    assert open_waits(store, link) == {"sent"}
    assert {name: row["status"] for name, row in step_rows(store, link).items()} == {
        "paid": "cancelled",
        "sent": "waiting",
    }


@pytest.mark.parametrize(
    ("kind", "passes", "aftermath", "status"),
    [
        (None, 0, Aftermath(wake=("c",)), "cancelled"),
        (None, 1, Aftermath(wake=("c",)), "suspended"),
        ("task", 0, Aftermath(revoke=("c",)), "cancelled"),
    ],
    ids=["pending", "in its body", "task"],
)
@pytest.mark.parametrize("step", ["cancelled", "failed", "waiting"])
def test_what_is_not_waited_for_any_more_is_cancelled(
    store: Store, link: Link, kind: str | None, passes: int, aftermath: Aftermath, status: str, step: str
) -> None:
    """Its step is given up, has failed as its time was up, or is to call again."""
    claim = taken(store, link)
    changed(store, link, claim, calls_of("c", "d", kind=kind))
    put(store, link, "c", passes=passes)
    given_up = a_call("c", known=True, status=step, child="c" if step == "cancelled" else None)
    assert changed(store, link, claim, Changes(steps=(given_up,), cancelled=("c",))) == aftermath
    assert run_row(store, link, "c")["status"] == status
    assert run_row(store, link, "d")["status"] == "pending"
    assert step_rows(store, link)["call c"]["status"] == step
    if passes:
        assert run_row(store, link, "c")["cancelling"] == "run r1 does not wait for it any more"
        assert done(store, link, "c", "cancelled") == NOTHING
        assert step_rows(store, link)["call c"]["status"] == step


# -- Suspend


def test_a_run_parks_on_many_things_at_once(store: Store, link: Link) -> None:
    claim = taken(store, link)
    wait, call = waiting_for(claim, "paid", "sent"), calls_of("c", "d")
    nap = a_step("nap", kind="sleep", status="waiting", result=None, wake_at=claim.now + 5)
    changes = Changes((*wait.steps, *call.steps, nap), waits=wait.waits, calls=call.calls)
    assert parked(store, link, claim, changes, quorum=4) == Aftermath(wake=("c", "d"))
    row = run_row(store, link)
    assert (row["status"], row["quorum"]) == ("suspended", 4)
    assert row["token"] != claim.fence.token
    assert open_waits(store, link) == {"paid", "sent"}
    assert {row["status"] for row in step_rows(store, link).values()} == {"waiting"}
    assert run_row(store, link, "d")["status"] == "pending"
    assert claimed(store, link).history["call d"].child == "d"
    assert run_row(store, link)["quorum"] is None


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_an_answer_that_came_meanwhile_overtakes_the_parking(store: Store, link: Link, status: str) -> None:
    claim = taken(store, link)
    changed(store, link, claim, calls_of("c", "d"))
    done(store, link, "d", status)
    locked: list[str] = []
    found = store.suspend(
        link, claim.fence, watched=["call c", "call d"], on_locked=lambda: locked.append("x"), **PARKING
    )
    assert isinstance(found, Overtaken)
    (record,) = found.records
    assert (record.id, record.status) == ("call d", "completed" if status == "completed" else "waiting")
    assert (record.child is None) == (status == "failed")
    assert not locked
    assert run_row(store, link)["token"] == claim.fence.token
    assert store.settled(link, "r1", ["call c", "call d"]) == (record,)
    parked(store, link, claim, watched=["call c"])


def twice(write: Any) -> list[Any]:
    return [write(), write()]


def test_what_was_done_and_not_heard_of_is_done_again(store: Store, link: Link, monkeypatch: Any) -> None:
    """Each write, done twice as after a lost answer, says the same."""
    claim = taken(store, link)
    change = Changes((*calls_of("c").steps, a_step("s", position=5)), calls=calls_of("c").calls)
    assert twice(lambda: changed(store, link, claim, change)) == [Aftermath(wake=("c",))] * 2
    steps = [a_step(f"t{number}", position=number) for number in range(3)]
    assert twice(lambda: together(store, link, claim.fence, steps, lease_of(claim))) == [True] * 2
    given_up = Changes(steps=(a_call("c", known=True, status="cancelled"),), cancelled=("c",))
    changed(store, link, claim, given_up)
    assert isinstance(changed(store, link, claim, given_up), Aftermath)
    assert run_row(store, link, "c")["status"] == "cancelled"
    values = store._suspension(claim.fence, **PARKING)
    monkeypatch.setattr(store, "_suspension", lambda *_, **__: values)  # one call draws its token once
    found = twice(lambda: store.suspend(link, claim.fence, changes=calls_of("d"), **PARKING))
    assert found == [Aftermath(wake=("d",))] * 2


def test_a_write_that_breaks_and_is_not_ours_is_no_success(store: Store, link: Link) -> None:
    claim = taken(store, link)
    changed(store, link, claim, calls_of("c"))
    assert store.change(link, stale(claim), calls_of("c"), lease_of(claim)) is None
    assert together(store, link, stale(claim), [a_step("x"), a_step("y")], lease_of(claim)) is False
    assert set(step_rows(store, link)) == {"call c"}


# -- Recording what is ready together


@pytest.mark.parametrize("count", [1, 2, 100])
def test_many_steps_are_recorded_as_one(store: Store, link: Link, count: int) -> None:
    claim = taken(store, link)
    steps = [a_step(f"s{number}", position=number, result=str(number), seen=number) for number in range(count)]
    assert together(store, link, claim.fence, steps, lease_of(claim) + 7)
    assert run_row(store, link)["due_at"] == lease_of(claim) + 7
    rows = step_rows(store, link)
    assert list(rows) == [step.id for step in steps]
    assert [row["result"] for row in rows.values()] == [step.result for step in steps]


def test_together_means_all_or_none(store: Store, link: Link) -> None:
    """A step that is there already (which no holder of the token does) lets none of the others in."""
    claim = taken(store, link)
    store.record(link, claim.fence, a_step("there"), lease_of(claim))
    steps = (a_step("new", position=1), a_step("there", result="2"))
    assert together(store, link, claim.fence, steps, lease_of(claim)) is False
    assert set(step_rows(store, link)) == {"there"}


# -- The end of what was called


WAYS: dict[str, Callable[..., Aftermath | None]] = {"by its worker": done, "from outside": over, "reported": over}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How what was called comes to its end; an ordinary task's is reported."""
    return str(request.param)


def calling(store: Store, link: Link, way: str, *children: str, **values: Any) -> Callable[..., Aftermath | None]:
    """A run that is parked on others, and how these end."""
    called(store, link, *children, **values | ({"kind": "task"} if way == "reported" else {}))
    return WAYS[way]


def test_a_result_answers_the_step_that_called(store: Store, link: Link, way: str) -> None:
    end = calling(store, link, way, "c")
    assert end(store, link, "c") == Aftermath(wake=("r1",))
    row = step_rows(store, link)["call c"]
    assert (row["status"], row["result"], row["child"], row["wake_at"]) == ("completed", '"done"', "c", None)
    assert row["finished_at"] is not None
    parent = run_row(store, link)
    assert (parent["status"], parent["waiting_on"], parent["sends"]) == ("suspended", "a worker", 0)
    assert 0 < parent["due_at"] - store.now(link) <= 3_000_000
    assert claimed(store, link).history["call c"].status == "completed"


def test_a_failure_leaves_the_step_for_its_caller_to_judge(store: Store, link: Link, way: str) -> None:
    end = calling(store, link, way, "c")
    assert end(store, link, "c", "failed") == Aftermath(wake=("r1",))
    row = step_rows(store, link)["call c"]
    assert (row["status"], row["error"], row["child"]) == ("waiting", '{"type":"E"}', None)
    assert row["wake_at"] is not None
    assert row["finished_at"] is not None


def test_a_caller_is_woken_when_all_have_ended(store: Store, link: Link, way: str) -> None:
    end = calling(store, link, way, "c", "d", "e", quorum=3)
    assert end(store, link, "d") == NOTHING
    row = run_row(store, link)
    assert (row["quorum"], row["due_at"]) == (2, None)
    assert end(store, link, "c") == NOTHING
    assert end(store, link, "e") == Aftermath(wake=("r1",))
    row = run_row(store, link)
    assert (row["quorum"], row["due_at"] is None) == (1, False)
    assert [row["status"] for row in step_rows(store, link).values()] == ["completed"] * 3


def test_a_failure_wakes_at_once(store: Store, link: Link, way: str) -> None:
    end = calling(store, link, way, "c", "d", "e", quorum=3)
    assert end(store, link, "d", "failed") == Aftermath(wake=("r1",))
    row = run_row(store, link)
    assert (row["quorum"], row["due_at"] is None) == (3, False)


@pytest.mark.parametrize("quorum", [None, 2])
@pytest.mark.parametrize("status", ["running", "paused", "completed", "failed", "cancelled"])
def test_a_caller_that_does_not_sleep_is_not_woken(
    store: Store, link: Link, way: str, status: str, quorum: int | None
) -> None:
    end = calling(store, link, way, "c", quorum=quorum)
    put(store, link, status=status, due_at=None)
    assert end(store, link, "c") == NOTHING
    row = run_row(store, link)
    assert (row["status"], row["due_at"], row["quorum"]) == (status, None, quorum)
    assert run_row(store, link, "c")["status"] == "completed"
    answered = status in ("running", "paused")
    assert step_rows(store, link)["call c"]["status"] == ("completed" if answered else "waiting")


def test_a_caller_whose_step_is_under_way_is_not_woken(store: Store, link: Link, way: str) -> None:
    """It was stopped, and a worker has not let it go yet: then it is told by what it hands back."""
    end = calling(store, link, way, "c")
    put(store, link, waiting_on=UNDER_WAY, due_at=7)
    end(store, link, "c")
    row = run_row(store, link)
    assert (row["waiting_on"], row["due_at"]) == (UNDER_WAY, 7)


@pytest.mark.parametrize("quorum", [None, 2])
def test_only_the_run_that_is_waited_for_answers(store: Store, link: Link, way: str, quorum: int | None) -> None:
    """An attempt that was given up ends late: its step has called another run."""
    end = calling(store, link, way, "c", quorum=quorum)
    step = store.tables.step
    link.run(lambda connection: connection.execute(step.update().values(child="c-2")))
    assert end(store, link, "c") == NOTHING
    assert step_rows(store, link)["call c"]["status"] == "waiting"
    assert (run_row(store, link)["quorum"], run_row(store, link, "c")["status"]) == (quorum, "completed")


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_task_whose_caller_is_forgotten_ends_all_the_same(store: Store, link: Link, status: str) -> None:
    called(store, link, "c", kind="task")
    run = store.tables.run
    link.run(lambda connection: connection.execute(run.delete().where(run.c.id == "r1")))
    assert over(store, link, "c", status) == NOTHING
    assert run_row(store, link, "c")["status"] == status


@pytest.mark.parametrize("quorum", [None, 2, 3])
def test_a_report_is_recorded_once(store: Store, link: Link, quorum: int | None) -> None:
    called(store, link, "c", "d", "e", quorum=quorum, kind="task")
    assert over(store, link, "c") is not None
    before = run_row(store, link), step_rows(store, link), run_row(store, link, "c")
    assert over(store, link, "c") is None
    assert over(store, link, "c", "failed") is None
    assert (run_row(store, link), step_rows(store, link), run_row(store, link, "c")) == before


def test_an_end_is_recorded_once(store: Store, link: Link) -> None:
    called(store, link, "c", "d", quorum=2)
    child = claimed(store, link, "c")
    assert ended(store, link, child) == NOTHING
    assert ended(store, link, child) == Aftermath(wake=("r1",))  # not known any more whether it is needed
    assert run_row(store, link)["quorum"] == 1
    assert ended(store, link, child, "failed") is None
    assert store.end_from_outside(link, "c", status="failed") is None
    assert step_rows(store, link)["call c"]["status"] == "completed"


def test_a_stale_holder_answers_nobody(store: Store, link: Link) -> None:
    called(store, link, "c")
    child = claimed(store, link, "c")
    found = store.finish(link, stale(child), status="completed", now=1, lease=LEASE, parent=child.parent, result="1")
    assert found is None
    assert step_rows(store, link)["call c"]["status"] == "waiting"


@pytest.mark.parametrize("how", ["finish", "from outside"])
def test_a_run_that_ends_leaves_nothing_open(store: Store, link: Link, how: str) -> None:
    claim = taken(store, link)
    changed(store, link, claim, waiting_for(claim, "paid"))
    changed(store, link, claim, calls_of("c", "d"))
    changed(store, link, claim, calls_of("t", kind="task"))
    claimed(store, link, "d")
    if how == "finish":
        found = ended(store, link, claim, open_steps=True)
    else:
        found = store.end_from_outside(link, "r1", status="failed", error='{"type":"E"}', worker="w/1")
    assert found is not None
    assert (sorted(found.wake), found.revoke) == (["c", "d"], ("t",))
    assert open_waits(store, link) == set()
    assert {name: run_row(store, link, name)["status"] for name in "cdt"} == {
        "c": "cancelled",
        "d": "suspended",
        "t": "cancelled",
    }
    assert run_row(store, link, "d")["cancelling"] == "the run that called it has ended"


def test_from_outside_only_who_may(store: Store, link: Link) -> None:
    called(store, link, "c")
    claimed(store, link, "c")
    assert store.end_from_outside(link, "c", status="failed", worker="another") is None
    assert store.end_from_outside(link, "nowhere", status="failed") is None
    assert run_row(store, link, "c")["status"] == "running"
    assert store.end_from_outside(link, "c", status="failed", error="{}", worker="w/1") == Aftermath(wake=("r1",))
    row = run_row(store, link, "c")
    assert (row["status"], row["due_at"]) == ("failed", None)
    assert row["delivered_at"] is not None


def test_a_call_is_made_again_by_the_same_step(store: Store, link: Link) -> None:
    called(store, link, "c")
    done(store, link, "c", "failed")
    claim = claimed(store, link)
    row = a_call("c", known=True, attempts=2, child="c-2")
    again = Changes((row,), calls=(new_run("c-2", parent=Parent("r1", row.id)),))
    assert parked(store, link, claim, again) == Aftermath(wake=("c-2",))
    assert done(store, link, "c-2") == Aftermath(wake=("r1",))
    assert step_rows(store, link)["call c"]["child"] == "c-2"
    assert step_rows(store, link)["call c"]["status"] == "completed"
