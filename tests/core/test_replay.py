"""The decision, as a table: every status of a record, every kind of step, everything that may be asked."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_durable.core.replay import (
    Ask,
    Decision,
    Interrupted,
    Mismatch,
    Park,
    Perform,
    Record,
    Replay,
    decide,
)

NOW = 1_000
KINDS = ("run", "transaction", "sleep", "now", "random", "uuid4")


def recorded(kind: str, status: str, wake_at: int | None = None, attempts: int = 2, input_hash: str = "h") -> Record:
    return Record("s", kind, status, 0, input_hash, "1", None, attempts, wake_at, '"beat"')


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_most_once", [False, True])
@pytest.mark.parametrize("strict", [False, True])
def test_nothing_recorded(kind: str, at_most_once: bool, strict: bool) -> None:
    assert decide(None, Ask("s", kind, "h", strict, at_most_once), NOW) == Perform(1, known=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", ["completed", "failed"])
@pytest.mark.parametrize("at_most_once", [False, True])
@pytest.mark.parametrize("wake_at", [None, NOW - 1, NOW + 1])
def test_an_outcome_is_replayed(kind: str, status: str, at_most_once: bool, wake_at: int | None) -> None:
    record = recorded(kind, status, wake_at)
    assert decide(record, Ask("s", kind, "h", True, at_most_once), NOW) == Replay(record)


@pytest.mark.parametrize("kind", KINDS)
def test_what_began_begins_again_as_the_same_attempt(kind: str) -> None:
    assert decide(recorded(kind, "started"), Ask("s", kind, "h"), NOW) == Perform(2, True, '"beat"')
    assert decide(recorded(kind, "started", attempts=0), Ask("s", kind, "h"), NOW) == Perform(1, True, '"beat"')


@pytest.mark.parametrize("kind", KINDS)
def test_what_began_and_may_not_begin_twice_is_interrupted(kind: str) -> None:
    record = recorded(kind, "started")
    assert decide(record, Ask("s", kind, "h", at_most_once=True), NOW) == Interrupted(record)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_most_once", [False, True])
def test_what_waits_parks_until_it_is_due(kind: str, at_most_once: bool) -> None:
    record = recorded(kind, "waiting", NOW + 1)
    assert decide(record, Ask("s", kind, "h", False, at_most_once), NOW) == Park(NOW + 1, record)


@pytest.mark.parametrize("wake_at", [None, 0, NOW])
def test_a_sleep_that_is_due_is_over(wake_at: int | None) -> None:
    record = recorded("sleep", "waiting", wake_at)
    assert decide(record, Ask("s", "sleep", "h"), NOW) == Replay(record)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sleep"])
@pytest.mark.parametrize("wake_at", [None, 0, NOW])
def test_an_attempt_that_is_due_is_the_next_one(kind: str, wake_at: int | None) -> None:
    assert decide(recorded(kind, "waiting", wake_at), Ask("s", kind, "h"), NOW) == Perform(3, True, '"beat"')


@pytest.mark.parametrize(("was", "asked"), list(itertools.permutations(KINDS, 2)))
@pytest.mark.parametrize("status", ["started", "waiting", "completed", "failed"])
def test_another_kind_does_not_fit(was: str, asked: str, status: str) -> None:
    record, ask = recorded(was, status), Ask("s", asked, "h")
    assert decide(record, ask, NOW) == Mismatch(record, ask, "kind")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("status", ["started", "waiting", "completed", "failed"])
@pytest.mark.parametrize("at_most_once", [False, True])
def test_another_input_does_not_fit_where_inputs_are_strict(kind: str, status: str, at_most_once: bool) -> None:
    record, ask = recorded(kind, status), Ask("s", kind, "other", True, at_most_once)
    assert decide(record, ask, NOW) == Mismatch(record, ask, "input")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (recorded("run", "completed"), Replay(recorded("run", "completed"), input_changed=True)),
        (recorded("run", "failed"), Replay(recorded("run", "failed"), input_changed=True)),
        (recorded("run", "started"), Perform(2, True, '"beat"', input_changed=True)),
        (recorded("run", "waiting"), Perform(3, True, '"beat"', input_changed=True)),
    ],
    ids=lambda value: value.status if isinstance(value, Record) else "",
)
def test_another_input_is_noticed(record: Record, expected: Decision) -> None:
    assert decide(record, Ask("s", "run", "other"), NOW) == expected


@pytest.mark.parametrize("strict", [False, True])
def test_a_record_without_an_input_fits_every_input(strict: bool) -> None:
    record = recorded("run", "completed", input_hash="")
    assert decide(record, Ask("s", "run", "other", strict), NOW) == Replay(record)


@given(
    record=st.none()
    | st.builds(
        Record,
        id=st.just("s"),
        kind=st.sampled_from(KINDS),
        status=st.sampled_from(["started", "waiting", "completed", "failed"]),
        input_hash=st.sampled_from(["", "a", "b"]),
        attempts=st.integers(0, 5),
        wake_at=st.none() | st.integers(NOW - 2, NOW + 2),
    ),
    kind=st.sampled_from(KINDS),
    given_hash=st.sampled_from(["a", "b"]),
    strict=st.booleans(),
    at_most_once=st.booleans(),
)
def test_what_always_holds(record: Record | None, kind: str, given_hash: str, strict: bool, at_most_once: bool) -> None:
    ask = Ask("s", kind, given_hash, strict, at_most_once)
    decision = decide(record, ask, NOW)
    assert decision == decide(record, ask, NOW)
    if record is not None and record.status in ("completed", "failed"):  # recorded once: never done again
        assert isinstance(decision, (Replay, Mismatch))
    if at_most_once and record is not None and record.status == "started":
        assert isinstance(decision, (Interrupted, Mismatch))
    if isinstance(decision, Perform):
        assert decision.known == (record is not None)
        assert decision.attempt >= 1
    if isinstance(decision, Park):
        assert decision.wake_at is not None
        assert decision.wake_at > NOW
