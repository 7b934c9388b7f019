"""What every database has to do alike. One file, run on SQLite, PostgreSQL and MariaDB or MySQL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from celery_durable.core.duration import SECOND
from celery_durable.errors import ConfigurationError, StartConflict
from celery_durable.store.link import Link
from celery_durable.store.records import Changes, Claim, Deed, Fence, NewEvent, NewWait, NotClaimed, Outcome
from celery_durable.store.store import Store

from .making import (
    LEASE,
    STALE,
    a_step,
    claimed,
    lease_of,
    new_run,
    put,
    run_row,
    stale,
    step_rows,
    taken,
)

# -- Start


def test_a_start_is_recorded(store: Store, link: Link) -> None:
    before = store.now(link)
    assert store.start(link, new_run(retries=2)) is True
    row = run_row(store, link)
    assert (row["task"], row["status"], row["input_hash"]) == ("t", "pending", "h1")
    assert (row["sends"], row["passes"], row["retries"], row["recoveries"], row["progress"]) == (1, 0, 2, 0, 0)
    assert before <= row["created_at"] <= store.now(link)
    assert abs(row["due_at"] - row["created_at"]) < SECOND
    assert row["wake_at"] is None
    assert row["arguments"] == "[[1],{}]"


def test_a_delayed_start_is_due_by_the_databases_clock(store: Store, link: Link) -> None:
    store.start(link, new_run(wake_in=60 * SECOND, due_in=50 * SECOND))
    row, now = run_row(store, link), store.now(link)
    assert 59 * SECOND < row["wake_at"] - now <= 60 * SECOND
    assert 49 * SECOND < row["due_at"] - now <= 50 * SECOND


def test_the_same_start_again_starts_nothing(store: Store, link: Link) -> None:
    assert store.start(link, new_run()) is True
    row = run_row(store, link)
    assert store.start(link, new_run()) is False
    assert store.start(link, new_run(message="another")) is False
    assert run_row(store, link) == row


@pytest.mark.parametrize(
    ("other", "said"),
    [({"input_hash": "h2"}, "with other arguments"), ({"task": "u"}, "with task t")],
)
def test_another_start_of_one_id_is_a_conflict(store: Store, link: Link, other: dict[str, Any], said: str) -> None:
    store.start(link, new_run())
    row = run_row(store, link)
    with pytest.raises(StartConflict, match=said):
        store.start(link, new_run(**other))
    assert run_row(store, link) == row


def test_starts_at_the_same_time_make_one_run(store: Store) -> None:
    results = together(*[lambda: with_link(store, lambda link: store.start(link, new_run()))] * 6)
    assert sorted(results) == [False] * 5 + [True]


@pytest.mark.parametrize("text", ["Grüße 🚀", 'it\'s "quoted" \\ %s :name ?', "x" * 200_000])
def test_texts_are_kept_as_they_are(store: Store, link: Link, text: str) -> None:
    import json

    stored = json.dumps(text)
    store.start(link, new_run(arguments=stored, message=stored))
    claim = claimed(store, link)
    assert (claim.arguments, claim.message) == (stored, stored)
    store.record(link, claim.fence, a_step(result=stored, input=stored, error=stored), lease_of(claim))
    row = step_rows(store, link)["s"]
    assert (row["result"], row["input"], row["error"]) == (stored, stored, stored)


def test_ids_are_told_apart_byte_by_byte(store: Store, link: Link) -> None:
    for run_id in ("a", "A", "ä", "a\u0308", "straße", "strasse", "🚀", "x" * 255):
        assert store.start(link, new_run(run_id)), run_id
    claim = claimed(store, link, "A")
    for step_id in ("a", "A", "ä", "🚀"):
        assert store.record(link, claim.fence, a_step(step_id), lease_of(claim))
    assert len(step_rows(store, link, "A")) == 4


def test_a_message_without_a_row_is_recorded_and_taken_at_once(store: Store, link: Link) -> None:
    claim = store.start_claimed(link, new_run(), "w/1", LEASE, "v1")
    assert isinstance(claim, Claim)
    assert (claim.passes, claim.arguments, claim.history) == (1, "[[1],{}]", {})
    row = run_row(store, link)
    assert (row["status"], row["worker"], row["code_version"]) == ("running", "w/1", "v1")
    assert row["started_at"] is not None
    assert store.record(link, claim.fence, a_step(), lease_of(claim))
    assert store.start_claimed(link, new_run(), "w/2", LEASE, "v1") is None


# -- Claim


def test_a_claim_brings_all_that_a_pass_needs(store: Store, link: Link) -> None:
    store.start(link, new_run(retries=1))
    claim = store.claim(link, "r1", worker="w/1", lease=LEASE, code_version="v1")
    assert isinstance(claim, Claim)
    assert (claim.retries, claim.recoveries, claim.passes, claim.history) == (1, 0, 1, {})
    row = run_row(store, link)
    assert (row["status"], row["worker"], row["code_version"], row["sends"]) == ("running", "w/1", "v1", 0)
    assert row["token"] == claim.fence.token
    assert row["due_at"] == pytest.approx(claim.now + LEASE, abs=SECOND)


def test_a_claimed_run_is_not_claimed_again(store: Store, link: Link) -> None:
    claim = taken(store, link)
    assert store.claim(link, "r1", worker="w/2", lease=LEASE) == NotClaimed("running")
    assert run_row(store, link)["token"] == claim.fence.token


def test_claims_at_the_same_time_give_the_run_to_one(store: Store, link: Link) -> None:
    store.start(link, new_run())

    def claim() -> object:
        return with_link(store, lambda own: store.claim(own, "r1", worker="w", lease=LEASE))

    results = together(*[claim] * 6)
    won = [result for result in results if isinstance(result, Claim)]
    assert len(won) == 1
    assert run_row(store, link)["token"] == won[0].fence.token
    assert [result for result in results if result is not won[0]] == [NotClaimed("running")] * 5


def test_a_run_that_is_not_due_is_not_claimed(store: Store, link: Link) -> None:
    store.start(link, new_run(wake_in=2 * SECOND, due_in=0))
    early = store.claim(link, "r1", worker="w", lease=LEASE)
    assert isinstance(early, NotClaimed)
    assert early.status == "pending"
    assert SECOND < early.early_by <= 2 * SECOND
    claim = store.claim(link, "r1", worker="w", lease=LEASE, slack=2 * SECOND)
    assert isinstance(claim, Claim)
    assert claim.wake_at is not None
    assert claim.wake_at > claim.now


def test_there_is_no_such_run(store: Store, link: Link) -> None:
    assert store.claim(link, "nowhere", worker="w", lease=LEASE) == NotClaimed(None)
    assert store.get(link, "nowhere") is None


@pytest.mark.parametrize("status", ["paused", "cancelled", "running"])
def test_no_claim_of_a_run_that_is(store: Store, link: Link, status: str) -> None:
    store.start(link, new_run())
    put(store, link, status=status)
    assert store.claim(link, "r1", worker="w", lease=LEASE) == NotClaimed(status)


def test_the_delivery_of_a_finished_run_is_claimed_when_its_worker_had_its_time(store: Store, link: Link) -> None:
    claim = taken(store, link)
    assert store.finish(link, claim.fence, status="completed", now=claim.now, lease=LEASE, result="42")
    assert store.claim(link, "r1", worker="w/2", lease=LEASE) == NotClaimed("completed")
    put(store, link, wake_at=claim.now)
    found = store.claim(link, "r1", worker="w/2", lease=LEASE)
    assert isinstance(found, Outcome)
    assert found == Outcome(found.fence, "t", "completed", "42", None)
    assert store.claim(link, "r1", worker="w/3", lease=LEASE) == NotClaimed("completed")
    store.mark_delivered(link, [claim.fence])  # who ended it has had its time
    assert run_row(store, link)["delivered_at"] is None
    store.mark_delivered(link, [found.fence, Fence("nowhere", 1)])
    row = run_row(store, link)
    assert row["delivered_at"] is not None
    assert (row["due_at"], row["wake_at"]) == (None, None)
    assert store.claim(link, "r1", worker="w/3", lease=LEASE) == NotClaimed("completed")


def test_only_finished_runs_are_marked_delivered(store: Store, link: Link) -> None:
    store.mark_delivered(link, [taken(store, link).fence])
    assert run_row(store, link)["delivered_at"] is None


# -- Recording


def test_a_new_step_is_recorded(store: Store, link: Link) -> None:
    claim = taken(store, link)
    step = a_step(
        function="m.f", input="[[],{}]", error="e", wake_at=5, heartbeat='"b"', started_at=3, finished_at=4, position=7,
        block="parallel:7/race:7", tries="[]",
    )  # fmt: skip
    assert store.record(link, claim.fence, step, lease_of(claim)) is True
    row = step_rows(store, link)["s"]
    assert row.pop("run_id") == "r1"
    assert row == {name: value for name, value in step._asdict().items() if name != "known"}


def test_steps_are_recorded_together(store: Store, link: Link) -> None:
    claim = taken(store, link)
    steps = [a_step("s", position=1, block="map:1", tries="[]"), a_step("t", position=2, status="waiting", result=None)]
    if store.dialect.writes_in_cte:
        assert store.record_together(link, claim.fence, steps, lease_of(claim))
    else:
        assert store.change(link, claim.fence, Changes(steps=tuple(steps)), lease_of(claim))
    rows = step_rows(store, link)
    for step in steps:
        assert rows[step.id].pop("run_id") == "r1"
        assert rows[step.id] == {name: value for name, value in step._asdict().items() if name != "known"}


def test_a_step_is_recorded_once(store: Store, link: Link) -> None:
    """A second insert of a holder is its own try again: it holds, and changes nothing."""
    claim = taken(store, link)
    assert store.record(link, claim.fence, a_step(result="1"), lease_of(claim))
    assert store.record(link, claim.fence, a_step(result="2"), lease_of(claim)) is True
    assert step_rows(store, link)["s"]["result"] == "1"


@pytest.mark.parametrize("first", ["started", "waiting"])
def test_a_known_step_is_settled(store: Store, link: Link, first: str) -> None:
    claim = taken(store, link)
    begun = a_step(status=first, result=None, function="m.f", input="[]", position=3, block="race:3")
    assert store.record(link, claim.fence, begun, lease_of(claim))
    settled = a_step(known=True, attempts=2, heartbeat='"b"', started_at=1, finished_at=2, position=9)
    assert store.record(link, claim.fence, settled, lease_of(claim)) is True
    row = step_rows(store, link)["s"]
    assert (row["status"], row["result"], row["attempts"], row["finished_at"]) == ("completed", "1", 2, 2)
    first_recorded = (row["function"], row["input"], row["position"], row["block"])
    assert first_recorded == ("m.f", "[]", 3, "race:3")  # and stays so


@pytest.mark.parametrize("status", ["waiting", "started", "completed", "failed", "cancelled"])
def test_failed_attempts_are_given_to_who_may_make_another(store: Store, link: Link, status: str) -> None:
    claim = taken(store, link)
    assert store.record(link, claim.fence, a_step(status="waiting", started_at=5), lease_of(claim))
    tried = a_step(status=status, known=True, tries='[["once"]]', started_at=7)
    assert store.record(link, claim.fence, tried, lease_of(claim))
    assert step_rows(store, link)["s"]["tries"] == '[["once"]]'
    assert store.suspend(link, claim.fence, wake_at=None, due_at=None, waiting_on="x")
    record = claimed(store, link).history["s"]
    assert record.tries == ('[["once"]]' if status in ("waiting", "started") else None)
    assert record.started_at == 7


def test_what_is_settled_stays(store: Store, link: Link) -> None:
    claim = taken(store, link)
    assert store.record(link, claim.fence, a_step(result="1"), lease_of(claim))
    store.record(link, claim.fence, a_step(known=True, status="failed", result="2"), lease_of(claim))
    row = step_rows(store, link)["s"]
    assert (row["status"], row["result"]) == ("completed", "1")


def test_the_history_is_in_order(store: Store, link: Link) -> None:
    claim = taken(store, link)
    for position, step_id in enumerate(["z", "a", "m"]):
        store.record(link, claim.fence, a_step(step_id, position=position), lease_of(claim))
    assert store.suspend(link, claim.fence, wake_at=None, due_at=None, waiting_on="x")
    history = claimed(store, link).history
    assert list(history) == ["z", "a", "m"]
    record = history["a"]
    assert (record.kind, record.status, record.position, record.result, record.attempts, record.input_hash) == (
        "run", "completed", 1, "1", 1, "i",
    )  # fmt: skip


def test_steps_of_other_runs_are_left_alone(store: Store, link: Link) -> None:
    one, two = taken(store, link, "r1"), taken(store, link, "r2")
    for claim in (one, two):
        store.record(link, claim.fence, a_step(status="waiting", result=None), lease_of(claim))
    store.record(link, one.fence, a_step(known=True), lease_of(one))
    assert step_rows(store, link, "r2")["s"]["status"] == "waiting"


def test_a_step_is_recorded_within_a_transaction_of_the_users(store: Store, link: Link) -> None:
    claim = taken(store, link)
    for outcome in ("rollback", "commit"):
        with transaction(store) as connection:
            assert store.record_within(connection, claim.fence, a_step(), lease_of(claim))
            getattr(connection, outcome)()
        assert ("s" in step_rows(store, link)) == (outcome == "commit")
    with transaction(store) as connection:
        assert not store.record_within(connection, stale(claim), a_step("t"), lease_of(claim))
        connection.rollback()


# -- The fence: a token that is not the run's writes nothing

WRITES: dict[str, Callable[[Store, Link, Fence, int], bool]] = {
    "record new": lambda store, link, fence, lease: store.record(link, fence, a_step("new"), lease),
    "record new if fresh": lambda store, link, fence, lease: store.record(
        link, fence, a_step("new"), lease, is_fresh=True
    ),
    "record known": lambda store, link, fence, lease: store.record(link, fence, a_step("old", known=True), lease),
    "suspend": lambda store, link, fence, lease: bool(
        store.suspend(
            link,
            fence,
            changes=Changes(steps=(a_step("new", status="waiting"),)),
            wake_at=lease,
            due_at=lease,
            waiting_on="x",
            reset=["done"],
        )
    ),
    "park for an event": lambda store, link, fence, lease: bool(
        store.suspend(
            link,
            fence,
            changes=Changes(
                steps=(a_step("new", kind="wait", status="waiting"),), waits=(("new", NewWait("paid", "k", None, 0)),)
            ),
            wake_at=lease,
            due_at=lease,
            waiting_on="x",
            on_locked=lambda: None,
        )
    ),
    "take an event": lambda store, link, fence, lease: store.take_event(link, fence, a_step("new"), 1, lease),
    "end a wait": lambda store, link, fence, lease: (
        store.end_wait(link, fence, a_step("old", known=True), lease) is not None
    ),
    "emit by a step": lambda store, link, fence, lease: store.emit_step(
        link, fence, a_step("new"), NewEvent("e1", "paid", None, "null", "h"), 0, lease, 0.0
    ),
    "pause": lambda store, link, fence, lease: store.pause(link, fence, waiting_on="x", error="e"),
    "finish": lambda store, link, fence, lease: bool(
        store.finish(link, fence, status="completed", now=lease, lease=1, result="1")
    ),
    "change": lambda store, link, fence, lease: bool(
        store.change(link, fence, Changes(steps=(a_step("new"), a_step("old", known=True))), lease)
    ),
    "record together": lambda store, link, fence, lease: (
        store.record_together(link, fence, [a_step("new"), a_step("newer")], lease)
        if store.dialect.writes_in_cte
        else bool(store.change(link, fence, Changes(steps=(a_step("new"), a_step("newer"))), lease))
    ),
    "record within": lambda store, link, fence, lease: within(store, fence, lease),
    "recover": lambda store, link, fence, lease: store.recover(link, fence),
    "set aside": lambda store, link, fence, lease: store.set_aside(link, fence, "x"),
}


def within(store: Store, fence: Fence, lease: int) -> bool:
    with transaction(store) as connection:
        kept = store.record_within(connection, fence, a_step("new"), lease)
        connection.commit()
    return kept


def prepared(store: Store, link: Link) -> Claim:
    """A claimed run with a step that waits and one that failed."""
    claim = taken(store, link)
    assert store.record(link, claim.fence, a_step("old", status="waiting", result=None), lease_of(claim))
    assert store.record(link, claim.fence, a_step("done", status="failed", position=1), lease_of(claim))
    return claim


def everything(store: Store, link: Link) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    return run_row(store, link), step_rows(store, link)


@pytest.mark.parametrize("write", WRITES)
def test_a_stale_token_writes_nothing(store: Store, link: Link, write: str) -> None:
    claim = prepared(store, link)
    before = everything(store, link)
    assert WRITES[write](store, link, stale(claim), lease_of(claim) + 7) is False
    assert everything(store, link) == before


@pytest.mark.parametrize("write", [write for write in WRITES if write != "set aside"])
@pytest.mark.parametrize("status", ["suspended", "paused", "completed", "failed", "cancelled"])
def test_a_run_that_is_not_running_is_not_written(store: Store, link: Link, write: str, status: str) -> None:
    claim = prepared(store, link)
    put(store, link, status=status, wake_at=None)
    before = everything(store, link)
    # An end that is recorded already under this token and status is this holder's own, written before.
    own = write == "finish" and status == "completed"
    assert WRITES[write](store, link, claim.fence, lease_of(claim) + 7) is own
    assert everything(store, link) == before


@pytest.mark.parametrize("write", WRITES)
def test_the_holders_token_writes(store: Store, link: Link, write: str) -> None:
    claim = prepared(store, link)
    before = everything(store, link)
    assert WRITES[write](store, link, claim.fence, lease_of(claim) + 7) is True
    assert everything(store, link) != before


def test_the_heartbeat_of_a_stale_holder_extends_nothing(store: Store, link: Link) -> None:
    one, two = taken(store, link, "r1"), taken(store, link, "r2")
    before = run_row(store, link, "r1")["due_at"]
    store.extend(link, [stale(one), two.fence], 2 * LEASE)
    assert run_row(store, link, "r1")["due_at"] == before
    assert run_row(store, link, "r2")["due_at"] > before + LEASE // 2
    store.extend(link, [], LEASE)


# -- The fence against a hand-off that is not committed yet

RACING = [write for write in WRITES if write not in ("set aside", "recover")]


@pytest.mark.parametrize("write", RACING)
@pytest.mark.parametrize("committed", [True, False], ids=["committed", "rolled back"])
def test_a_write_waits_for_the_outcome_of_a_hand_off(racing: Store, write: str, committed: bool) -> None:
    """While another transaction has rotated the token, the holder's write must wait for how that ends."""
    store, link = racing, racing.link()
    claim = prepared(store, link)
    before = step_rows(store, link)
    result: list[bool] = []
    writer = threading.Thread(
        target=lambda: result.append(
            with_link(store, lambda own: WRITES[write](store, own, claim.fence, lease_of(claim) + 7))
        )
    )
    link.release()
    with store.engine.connect() as other:
        other.exec_driver_sql(store.dialect.begin)
        rotate(store, other)
        writer.start()
        time.sleep(0.15)
        assert not result, "the write did not wait"
        other.exec_driver_sql("COMMIT" if committed else "ROLLBACK")
    writer.join(20)
    assert result == [not committed]
    if committed:
        row = run_row(store, link)
        assert (row["token"], row["status"]) == (STALE, "suspended")
        assert step_rows(store, link) == before
    elif write in ("record new", "record new if fresh", "record within", "suspend"):
        assert "new" in step_rows(store, link)


def test_a_hand_off_waits_for_a_write_in_an_open_transaction(racing: Store) -> None:
    """The other way round: who rotates the token waits for a holder that has fenced and not committed."""
    store, link = racing, racing.link()
    claim = prepared(store, link)
    link.release()
    done = threading.Event()

    def hand_off() -> None:
        assert with_link(store, lambda own: store.recover(own, claim.fence))
        done.set()

    with transaction(store) as connection:
        assert store.record_within(connection, claim.fence, a_step("new"), lease_of(claim))
        thread = threading.Thread(target=hand_off)
        thread.start()
        assert not done.wait(0.15)
        connection.commit()
    thread.join(20)
    assert done.is_set()
    assert "new" in step_rows(store, link)
    assert store.record(link, claim.fence, a_step("late"), lease_of(claim)) is False
    link.release()


@pytest.mark.parametrize("racing", ["postgresql", "mysql read committed"], indirect=True)
def test_a_condition_without_a_lock_is_no_fence(racing: Store) -> None:
    """Why the fence is as it is: without a lock, the token that is about to be rotated still counts."""
    naive = (
        "INSERT INTO durable_step (run_id, id, position, kind, status, input_hash, attempts) "
        "SELECT id, 'naive', 0, 'run', 'completed', '', 1 FROM durable_run WHERE id = 'r1' AND token = %s "
        "AND status = 'running'"
    )
    link = racing.link()
    claim = taken(racing, link)
    with racing.engine.connect() as other, racing.engine.connect() as holder:
        other.exec_driver_sql(racing.dialect.begin)
        rotate(racing, other)
        assert holder.exec_driver_sql(naive, (claim.fence.token,)).rowcount == 1  # did not wait
        other.exec_driver_sql("COMMIT")
    assert run_row(racing, link)["token"] == STALE
    assert "naive" in step_rows(racing, link)  # a stale holder has written
    link.release()


# -- Hand-offs


def test_suspend_records_cause_and_state_together(store: Store, link: Link) -> None:
    claim = taken(store, link)
    seen: list[str] = []
    assert store.suspend(
        link,
        claim.fence,
        changes=Changes(
            steps=(a_step("nap", kind="sleep", status="waiting", result=None, wake_at=claim.now + SECOND),)
        ),
        wake_at=claim.now + SECOND,
        due_at=claim.now + 2 * SECOND,
        waiting_on="the sleep 'nap'",
        published=True,
        on_locked=lambda: seen.append("locked"),
    )
    row = run_row(store, link)
    assert (row["status"], row["waiting_on"], row["sends"]) == ("suspended", "the sleep 'nap'", 1)
    assert (row["wake_at"], row["due_at"]) == (claim.now + SECOND, claim.now + 2 * SECOND)
    assert row["token"] != claim.fence.token
    assert step_rows(store, link)["nap"]["status"] == "waiting"
    assert seen == ["locked"]


def test_suspend_without_a_time_waits_for_good(store: Store, link: Link) -> None:
    claim = taken(store, link)
    store.suspend(link, claim.fence, wake_at=None, due_at=None, waiting_on="an event" * 200)
    row = run_row(store, link)
    assert (row["wake_at"], row["due_at"], row["sends"]) == (None, None, 0)
    assert len(row["waiting_on"]) == 500
    assert store.due(link, 10) == []


def test_what_fails_while_the_run_is_locked_parks_nothing(store: Store, link: Link) -> None:
    claim = prepared(store, link)
    before = everything(store, link)

    def fail() -> None:
        raise RuntimeError("no result backend")

    with pytest.raises(RuntimeError):
        store.suspend(
            link,
            claim.fence,
            changes=Changes(steps=(a_step("nap"),)),
            wake_at=None,
            due_at=None,
            waiting_on="x",
            on_locked=fail,
        )
    assert everything(store, link) == before
    assert store.record(link, claim.fence, a_step("goes on"), lease_of(claim))


def test_a_retry_of_the_run_resets_the_failed_steps(store: Store, link: Link) -> None:
    claim = taken(store, link)
    for position, (step_id, status) in enumerate([("good", "completed"), ("bad", "failed"), ("other", "failed")]):
        step = a_step(step_id, status=status, position=position, attempts=4, finished_at=1, error="e")
        store.record(link, claim.fence, step, lease_of(claim))
    assert store.suspend(
        link, claim.fence, wake_at=None, due_at=None, waiting_on="x", retried=True, error="E", reset=["bad"]
    )
    rows = step_rows(store, link)
    assert {name: (row["status"], row["attempts"]) for name, row in rows.items()} == {
        "good": ("completed", 4),
        "bad": ("waiting", 0),
        "other": ("failed", 4),
    }
    assert (run_row(store, link)["retries"], run_row(store, link)["error"]) == (1, "E")
    assert claimed(store, link).retries == 1


def test_pause_says_why(store: Store, link: Link) -> None:
    claim = taken(store, link)
    assert store.pause(link, claim.fence, waiting_on="code: it does not fit", error="E")
    row = run_row(store, link)
    assert (row["status"], row["waiting_on"], row["error"]) == ("paused", "code: it does not fit", "E")
    assert (row["due_at"], row["wake_at"]) == (None, None)
    assert row["token"] != claim.fence.token


@pytest.mark.parametrize(
    ("status", "values"), [("completed", {"result": "42"}), ("failed", {"error": "E"})], ids=["completed", "failed"]
)
def test_finish_leaves_time_to_deliver(store: Store, link: Link, status: str, values: dict[str, Any]) -> None:
    claim = taken(store, link)
    assert store.finish(link, claim.fence, status=status, now=claim.now, lease=LEASE, **values)
    row = run_row(store, link)
    assert (row["status"], row["finished_at"], row["delivered_at"]) == (status, claim.now, None)
    assert (row["wake_at"], row["due_at"]) == (claim.now + LEASE, claim.now + LEASE)
    assert {name: row[name] for name in values} == values


def test_a_write_whose_answer_was_lost_can_be_done_again(store: Store, link: Link) -> None:
    """Each write of a holder, tried once more after a commit that nobody heard of, says that it holds."""
    claim = prepared(store, link)
    known = a_step("old", known=True)
    for _ in range(2):
        assert store.record(link, claim.fence, known, lease_of(claim))
    for _ in range(2):
        assert store.record(link, claim.fence, a_step("new"), lease_of(claim))
    for _ in range(2):
        assert store.finish(link, claim.fence, status="completed", now=claim.now, lease=LEASE, result="1")
    assert not store.finish(link, claim.fence, status="failed", now=claim.now, lease=LEASE, error="E")


# -- The sweeper's


def test_what_is_due_comes_longest_due_first_and_not_too_much(store: Store, link: Link) -> None:
    now = store.now(link)
    for index, run_id in enumerate(["c", "a", "d", "b"]):
        store.start(link, new_run(run_id, message=f"m{run_id}"))
        put(store, link, run_id, due_at=now - 10 * SECOND + index)
    store.start(link, new_run("later", due_in=60 * SECOND))
    assert [due.fence.run_id for due in store.due(link, 10)] == ["c", "a", "d", "b"]
    first = store.due(link, 2)
    assert [due.fence.run_id for due in first] == ["c", "a"]
    assert (first[0].message, first[0].arguments, first[0].task, first[0].status) == ("mc", "[[1],{}]", "t", "pending")


def test_a_lease_that_ended_is_due(store: Store, link: Link) -> None:
    claim = taken(store, link)
    assert store.due(link, 10) == []
    put(store, link, due_at=claim.now - 1)
    (due,) = store.due(link, 10)
    assert (due.status, due.worker, due.fence) == ("running", "w/1", claim.fence)
    assert store.recover(link, due.fence) is True
    row = run_row(store, link)
    assert (row["status"], row["recoveries"], row["waiting_on"]) == ("suspended", 1, "a worker, its last one died")
    assert row["token"] != claim.fence.token
    assert row["due_at"] <= store.now(link)
    assert store.recover(link, due.fence) is False  # a second sweeper
    assert claimed(store, link).recoveries == 1


def test_deaths_count_since_the_last_recorded_step(store: Store, link: Link) -> None:
    store.start(link, new_run())
    for dead in (1, 2, 3):
        claim = claimed(store, link)
        assert store.deaths(link, "r1")[0] == dead
        assert store.recover(link, claim.fence)
        assert run_row(store, link)["recoveries"] == dead
    claim = claimed(store, link)
    store.record(link, claim.fence, a_step(), lease_of(claim))
    assert store.deaths(link, "r1") == (1, 1)
    assert store.recover(link, claim.fence)
    claim = claimed(store, link)
    store.record(link, claim.fence, a_step("begun", status="started", position=1), lease_of(claim))
    assert store.deaths(link, "r1") == (2, 1)  # a start is no progress
    assert store.recover(link, claim.fence, pause_because="poison: " + "x" * 600)
    row = run_row(store, link)
    assert (row["status"], row["recoveries"], row["due_at"]) == ("paused", 2, None)
    assert row["waiting_on"].startswith("poison: xxx")
    assert store.claim(link, "r1", worker="w", lease=LEASE) == NotClaimed("paused")
    assert store.resume_by_hand(link, "r1", Deed("resume", "x")) is True
    assert store.resume_by_hand(link, "r1", Deed("resume", "x")) is False
    assert claimed(store, link).recoveries == 0


def test_marked_sent_only_with_the_token_that_was_seen(store: Store, link: Link) -> None:
    for run_id in ("r1", "r2"):
        store.start(link, new_run(run_id))
    seen = {due.fence.run_id: due for due in store.due(link, 10)}
    claim = claimed(store, link, "r1")
    before = run_row(store, link, "r1")
    store.mark_sent(link, [(due.fence, 60 * SECOND, True) for due in seen.values()])
    assert run_row(store, link, "r1") == before
    assert claim.fence.token == before["token"]
    row = run_row(store, link, "r2")
    assert row["sends"] == 2
    assert row["due_at"] > store.now(link) + 50 * SECOND
    store.mark_sent(link, [(seen["r2"].fence, 5 * SECOND, False)])
    assert run_row(store, link, "r2")["sends"] == 2
    store.mark_sent(link, [])


def test_a_result_that_is_delivered_while_its_message_is_sent_is_not_sent_for_ever(store: Store, link: Link) -> None:
    store.start(link, new_run())
    claim = claimed(store, link)
    store.finish(link, claim.fence, status="completed", now=claim.now, lease=LEASE, result="1")
    put(store, link, due_at=1)
    (due,) = store.due(link, 10)

    store.mark_delivered(link, [claim.fence])
    store.mark_sent(link, [(due.fence, SECOND, True)])

    assert run_row(store, link)["due_at"] is None


def test_a_run_is_looked_at_again_so_long_after_its_time(store: Store, link: Link) -> None:
    store.start(link, new_run())
    wake_at = store.now(link) + 600 * SECOND
    put(store, link, wake_at=wake_at)
    fence = Fence("r1", run_row(store, link)["token"])
    store.mark_sent(link, [(fence, 0, False)])
    assert run_row(store, link)["due_at"] == wake_at
    store.mark_sent(link, [(fence, 15 * SECOND, True)])
    assert run_row(store, link)["due_at"] == wake_at + 15 * SECOND


def test_due_runs_are_passed_over_and_keep_their_places(store: Store, link: Link) -> None:
    now = store.now(link)
    for index, run_id in enumerate(["c", "a", "d", "b"]):
        store.start(link, new_run(run_id))
        put(store, link, run_id, due_at=now - 10 * SECOND + index)
    assert [due.fence.run_id for due in store.due(link, 2, 1)] == ["a", "d"]
    assert [due.fence.run_id for due in store.due(link, 10, 3)] == ["b"]
    assert store.due(link, 10, 4) == []


def test_who_was_not_taken_is_known_by_the_token(store: Store, link: Link) -> None:
    fences = []
    for run_id in ("r1", "r2", "r3"):
        store.start(link, new_run(run_id))
        fences.append(Fence(run_id, run_row(store, link, run_id)["token"]))
    claimed(store, link, "r2")
    assert store.untaken(link, fences) == {"r1", "r3"}
    assert store.untaken(link, []) == set()


def test_running_under(store: Store, link: Link) -> None:
    claim = taken(store, link)
    assert store.running_under(link, "r1", "w/1") == claim.fence
    assert store.running_under(link, "r1", "w/2") is None
    put(store, link, status="suspended")
    assert store.running_under(link, "r1", "w/1") is None


def test_leases(store: Store, link: Link) -> None:
    assert store.take_lease(link, "sweeper", "a", 60 * SECOND) is True
    assert store.take_lease(link, "sweeper", "a", 60 * SECOND) is True
    assert store.take_lease(link, "sweeper", "b", 60 * SECOND) is False
    assert store.take_lease(link, "other", "b", 60 * SECOND) is True
    store.drop_lease(link, "sweeper", "b")
    assert store.take_lease(link, "sweeper", "b", 60 * SECOND) is False
    store.drop_lease(link, "sweeper", "a")
    assert store.take_lease(link, "sweeper", "b", 50_000) is True
    time.sleep(0.06)
    assert store.take_lease(link, "sweeper", "a", 60 * SECOND) is True


def test_a_lease_that_all_want_goes_to_one(store: Store) -> None:
    def take(holder: str) -> bool:
        return with_link(store, lambda link: store.take_lease(link, "sweeper", holder, 60 * SECOND))

    results = together(*[lambda holder=str(index): take(holder) for index in range(6)])
    assert sorted(results) == [False] * 5 + [True]


# -- From outside


def test_set_aside(store: Store, link: Link) -> None:
    store.start(link, new_run())
    (due,) = store.due(link, 1)
    assert store.set_aside(link, due.fence, "codec: no key") is True
    row = run_row(store, link)
    assert (row["status"], row["waiting_on"], row["due_at"], row["wake_at"]) == ("paused", "codec: no key", None, None)
    assert row["token"] != due.fence.token


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_what_has_finished_is_not_set_aside(store: Store, link: Link, status: str) -> None:
    claim = taken(store, link)
    store.finish(link, claim.fence, status=status, now=claim.now, lease=LEASE, result="1")
    assert store.set_aside(link, claim.fence, "codec: no key") is False
    assert run_row(store, link)["status"] == status


def test_reconsider_lets_runs_go_on_that_waited_for_code(store: Store, link: Link) -> None:
    reasons = {"r1": "code: step", "r2": "codec: key", "r3": "poison: 3 workers", "r4": "by hand", "r5": "code: step"}
    for run_id, reason in reasons.items():
        claim = taken(store, link, run_id, task="u" if run_id == "r5" else "t")
        store.pause(link, claim.fence, waiting_on=reason, error=None)
    assert store.reconsider(link, []) == 0
    assert store.reconsider(link, ["t", "v"]) == 2
    statuses = {run_id: run_row(store, link, run_id)["status"] for run_id in reasons}
    assert statuses == {"r1": "suspended", "r2": "suspended", "r3": "paused", "r4": "paused", "r5": "paused"}
    assert sorted(due.fence.run_id for due in store.due(link, 10)) == ["r1", "r2"]


def test_unregistered_tasks_are_tried_elsewhere_and_then_parked(store: Store, link: Link) -> None:
    store.start(link, new_run())
    assert store.unregistered(link, "r1", delay=20 * SECOND, pause_because=None, waiting_on="a worker that has it")
    row = run_row(store, link)
    assert (row["status"], row["recoveries"], row["waiting_on"]) == ("suspended", 1, "a worker that has it")
    assert row["due_at"] > store.now(link) + 10 * SECOND
    assert store.unregistered(link, "r1", delay=0, pause_because="code: no task", waiting_on="")
    row = run_row(store, link)
    assert (row["status"], row["due_at"], row["waiting_on"]) == ("paused", None, "code: no task")
    assert not store.unregistered(link, "r1", delay=0, pause_because=None, waiting_on="")
    claim = taken(store, link, "r2")
    assert not store.unregistered(link, "r2", delay=0, pause_because=None, waiting_on="")
    assert store.record(link, claim.fence, a_step(), lease_of(claim))


def test_a_run_that_celery_ended_is_ended(store: Store, link: Link) -> None:
    claim = taken(store, link)
    assert not store.end_from_outside(link, "r1", status="failed", error="E", worker="w/2")
    assert store.end_from_outside(link, "r1", status="failed", error="E", worker="w/1")
    row = run_row(store, link)
    assert (row["status"], row["error"], row["due_at"], row["worker"]) == ("failed", "E", None, "w/1")
    assert abs(row["delivered_at"] - row["finished_at"]) < SECOND
    assert not store.record(link, claim.fence, a_step(), lease_of(claim))
    assert not store.end_from_outside(link, "r1", status="cancelled", error=None)
    store.start(link, new_run("r2"))
    assert store.end_from_outside(link, "r2", status="cancelled", error=None)
    assert store.claim(link, "r2", worker="w", lease=LEASE) == NotClaimed("cancelled")


def test_skip_wait_lets_time_pass(store: Store, link: Link) -> None:
    claim = taken(store, link)
    far = claim.now + 3_600 * SECOND
    nap = a_step("nap", kind="sleep", status="waiting", result=None, wake_at=far)
    store.suspend(link, claim.fence, changes=Changes(steps=(nap,)), wake_at=far, due_at=far, waiting_on="x")
    assert isinstance(store.claim(link, "r1", worker="w", lease=LEASE), NotClaimed)
    store.skip_wait(link, "r1")
    claim = claimed(store, link)
    assert claim.history["nap"].wake_at is not None
    assert claim.history["nap"].wake_at <= claim.now


# -- A codec that can't read what is stored


class Key:
    """Seals with a key; another key can't read it."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encode(self, data: bytes) -> bytes:
        return self._key + data[::-1]

    def decode(self, data: bytes) -> bytes:
        if not data.startswith(self._key):
            raise ValueError("wrong key")
        return data[len(self._key) :][::-1]


def test_what_is_stored_is_sealed(store: Store, link: Link) -> None:
    url = store.engine.url.render_as_string(hide_password=False)
    sealing = Store(url, sealer=Key(b"k1"))
    with sealing.link() as own:
        claim = taken(sealing, own, arguments='"secret"', message='"secret"')
        step = a_step(input='"secret"', result='"secret"', error='"secret"', heartbeat='"secret"')
        sealing.record(own, claim.fence, step, lease_of(claim))
        sealing.record(own, claim.fence, a_step("w", status="waiting", result='"secret"'), lease_of(claim))
        sealing.record(own, claim.fence, a_step("w", known=True, result='"secret"'), lease_of(claim))
        with transaction(sealing) as connection:
            sealing.record_within(connection, claim.fence, a_step("tx", result='"secret"'), lease_of(claim))
            connection.commit()
        assert sealing.suspend(own, claim.fence, wake_at=None, due_at=None, waiting_on="x", error='"secret"')
        claim = claimed(sealing, own)
        assert claim.arguments == claim.message == claim.history["s"].result == claim.history["w"].result == '"secret"'
        sealing.finish(own, claim.fence, status="completed", now=claim.now, lease=LEASE, result='"secret"')
        assert run_row(sealing, own)["result"] == '"secret"'
    raw = f"{run_row(store, link)} {step_rows(store, link)}"
    assert "secret" not in raw
    assert "sealed:" in raw
    sealing.engine.dispose()


def test_a_run_that_can_not_be_read_is_set_aside_and_stops_no_other(store: Store, link: Link) -> None:
    url = store.engine.url.render_as_string(hide_password=False)
    one, two = Store(url, sealer=Key(b"k1")), Store(url, sealer=Key(b"k2"))
    with one.link() as first, two.link() as second:
        one.start(first, new_run("unreadable"))
        two.start(second, new_run("readable"))
        one.start(first, new_run("to claim"))
        two.start(second, new_run("plain"))
        put(store, link, "to claim", due_at=None)
        found = {due.fence.run_id: due for due in two.due(second, 10)}
        assert set(found) == {"readable", "plain"}
        assert found["readable"].arguments == "[[1],{}]"
        assert run_row(store, link, "unreadable")["status"] == "paused"
        assert run_row(store, link, "unreadable")["waiting_on"].startswith("codec: durable_codec (Key) can't read")
        assert two.claim(second, "to claim", worker="w", lease=LEASE).status == "paused"  # type: ignore[union-attr]
        assert run_row(store, link, "to claim")["status"] == "paused"
        assert isinstance(two.claim(second, "readable", worker="w", lease=LEASE), Claim)
        assert one.reconsider(first, ["t"]) == 2
        assert isinstance(one.claim(first, "unreadable", worker="w", lease=LEASE), Claim)
        with pytest.raises(ConfigurationError, match="Give this process the key"):
            two.get(second, "unreadable")
    for opened in (one, two):
        opened.engine.dispose()


def test_rows_from_before_a_codec_stay_readable(store: Store, link: Link) -> None:
    store.start(link, new_run())
    sealing = Store(store.engine.url.render_as_string(hide_password=False), sealer=Key(b"k1"))
    with sealing.link() as own:
        assert claimed(sealing, own).arguments == "[[1],{}]"
    sealing.engine.dispose()


# -- A connection that breaks


def test_a_connection_that_died_in_the_pool_is_replaced(store: Store, link: Link) -> None:
    claim = taken(store, link)
    if store.dialect.name == "sqlite":
        pytest.skip("no connection to lose")
    with store.engine.connect() as other:
        own = link.run(lambda connection: connection.exec_driver_sql(_CONNECTION_ID[store.dialect.name]).scalar())
        other.exec_driver_sql(_KILL[store.dialect.name].format(own))
    assert store.record(link, claim.fence, a_step(), lease_of(claim), patience=5)
    assert "s" in step_rows(store, link)


_CONNECTION_ID = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}
_KILL = {"postgresql": "SELECT pg_terminate_backend({})", "mysql": "KILL {}"}


def test_an_error_that_is_none_of_the_connection_is_raised_at_once(store: Store, link: Link) -> None:
    store.start(link, new_run())
    run = store.tables.run
    row = {name: value for name, value in run_row(store, link).items() if name != "arguments"}
    started = time.monotonic()
    with pytest.raises(IntegrityError):
        link.run(lambda connection: connection.execute(run.insert().values(row)), patience=10)
    assert time.monotonic() - started < 5


# -- Helpers


def with_link(store: Store, work: Callable[[Link], Any]) -> Any:
    with store.link() as own:
        return work(own)


def together(*works: Callable[[], Any]) -> list[Any]:
    """All at once, each in a thread of its own; what they returned."""
    barrier = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)

    def do(index: int) -> None:
        barrier.wait()
        try:
            results[index] = works[index]()
        except Exception as error:
            results[index] = error

    threads = [threading.Thread(target=do, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def transaction(store: Store) -> Any:
    """A connection as step.transaction uses it."""
    return store.engine.execution_options(isolation_level=store.dialect.transaction_isolation).connect()


def rotate(store: Store, connection: Any) -> None:
    run = store.tables.run
    statement = run.update().where(run.c.id == "r1").values(token=STALE, status="suspended")
    assert connection.execute(statement).rowcount == 1
