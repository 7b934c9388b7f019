"""Starting runs, events and time."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from celery_durable import EventTimeout, Retry, RunNotFound, StartConflict, step
from celery_durable.testing import DurableEnv

from .conftest import Declare, new_app

NOON = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)


def waits(**options: Any) -> Any:
    def body(key: str = "k") -> Any:
        event = step.wait_for_event("paid", key=key, **options)
        return None if event is None else event.payload

    return body


def test_a_run_goes_as_far_as_it_does_without_time_passing(env: DurableEnv, durable: Declare) -> None:
    @durable
    def onboard(name: str) -> Any:
        step.run("create", str.upper, name)
        step.sleep("nap", "3d")
        return step.run("tell", str.lower, name)

    run = env.start(onboard, "Ann")
    assert (run.status, run.result, run.error) == ("suspended", None, None)
    assert "nap" in (run.waiting_on or "")
    run.assert_steps("create", "nap")
    env.advance("3d")
    run.assert_completed("ann")
    assert [step.kind for step in run.steps] == ["run", "sleep", "run"]


def test_now_is_what_was_said_and_passes_only_by_advance(app: Any, durable: Declare) -> None:
    @durable
    def times() -> Any:
        return [step.now().isoformat(), step.run("inside", lambda: step.current().attempt)]

    with DurableEnv(app, now=NOON) as env:
        assert env.start(times).result[0] == NOON.isoformat()
        assert env.now == NOON
        env.advance("1h30m")
        env.advance(timedelta(seconds=0.5))
        env.advance(1)
        assert env.now == NOON + timedelta(hours=1, minutes=30, seconds=1.5)
        assert env.start(times).result[0] == env.now.isoformat()


@pytest.mark.parametrize("now", [NOON, NOON.isoformat(), NOON.timestamp()])
def test_now_is_given_as_any_time(app: Any, now: Any) -> None:
    with DurableEnv(app, now=now) as env:
        assert env.now == NOON


def test_a_naive_now_is_refused(app: Any) -> None:
    with pytest.raises(ValueError, match=r"naive|offset|aware"):
        DurableEnv(app, now=datetime(2030, 1, 1))  # noqa: DTZ001


def test_time_does_not_go_back(env: DurableEnv) -> None:
    before = env.now
    with pytest.raises(ValueError):
        env.advance(-5)
    assert env.now == before


def test_sleeps_end_in_their_order_and_at_their_time(env: DurableEnv, durable: Declare) -> None:
    ended = []

    @durable
    def sleeps(hours: int) -> None:
        step.sleep("nap", f"{hours}h")
        step.run("note", lambda: ended.append((hours, env.now)))

    began = env.now
    for hours in (3, 1, 2):
        env.start(sleeps, hours)
    env.advance("1d")
    assert ended == [(hours, began + timedelta(hours=hours)) for hours in (1, 2, 3)]
    assert env.now == began + timedelta(days=1)


def test_time_passes_by_parts(env: DurableEnv, durable: Declare) -> None:
    @durable
    def nap() -> None:
        step.sleep("1h")

    run = env.start(nap)
    for _ in range(59):
        env.advance("1m")
        run.assert_status("suspended")
    env.advance("59.999999s")
    run.assert_status("suspended")
    env.advance(timedelta(microseconds=1))
    run.assert_status("completed")


def test_run_until_idle_stops_when_nothing_is_left_for_time_to_bring(env: DurableEnv, durable: Declare) -> None:
    @durable
    def both() -> Any:
        step.sleep("nap", "3d")
        event = step.wait_for_event("paid")
        step.sleep("more", "1d")
        return event and event.payload

    began = env.now
    run = env.start(both)
    env.run_until_idle()
    assert env.now == began + timedelta(days=3)
    run.assert_waiting_on("paid")
    env.emit("paid", 5)
    env.run_until_idle()
    run.assert_completed(5)
    assert env.now == began + timedelta(days=4)


def test_run_until_idle_of_what_has_no_end_says_so(
    env: DurableEnv, durable: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    @durable
    def for_ever() -> None:
        step.sleep("1h")
        step.continue_as_new()

    env.start(for_ever)
    monkeypatch.setattr("celery_durable.testing.env._MOST_WAKE_UPS", 50)
    with pytest.raises(AssertionError, match=r"env\.advance[\s\S]*for_ever"):
        env.run_until_idle()


# ------------------------------------------------------------------------ starts


def test_a_signature_has_options_of_its_own(env: DurableEnv, durable: Declare) -> None:
    @durable
    def double(number: int) -> int:
        return step.run("double", lambda: number * 2)

    assert env.start(double.s(4).set(task_id="four")).id == "four"
    run = env.start(double.s(5).set(countdown=60))
    assert run.status == "pending"
    env.advance("59s")
    assert run.status == "pending"
    env.advance("1s")
    run.assert_completed(10)


def test_a_signature_with_an_eta(env: DurableEnv, durable: Declare) -> None:
    @durable
    def double(number: int) -> int:
        return step.run("double", lambda: number * 2)

    env.advance("30d")
    run = env.start(double.s(6).set(eta=env.now + timedelta(days=1)))
    env.advance("1d")
    run.assert_completed(12)


def test_one_id_is_one_run(env: DurableEnv, durable: Declare) -> None:
    calls: list[int] = []

    @durable
    def once(number: int) -> None:
        step.run("note", calls.append, number)

    for _ in range(3):
        env.start(once.s(1).set(task_id="x"))
    assert calls == [1]
    assert [run.id for run in env.runs] == ["x"]
    with pytest.raises(StartConflict):
        env.start(once.s(2).set(task_id="x"))


def test_what_else_is_started_is_there_as_well(env: DurableEnv, durable: Declare) -> None:
    @durable
    def other(number: int) -> int:
        step.sleep("1h")
        return number

    @durable
    def starts() -> Any:
        step.run("start", lambda: other.apply_async((1,), task_id="started").id)
        return [step.run("delay", lambda: bool(other.delay(2).id))]

    env.start(starts)
    assert [run.record.task for run in env.runs] == ["starts", "other", "other"]
    run = env.run("started")
    assert run.status == "suspended"
    env.run_until_idle()
    assert [run.status for run in env.runs] == ["completed"] * 3


def test_a_run_that_is_not_there(env: DurableEnv) -> None:
    with pytest.raises(RunNotFound, match="nobody"):
        env.run("nobody")


def test_delay_outside_of_the_env_object_is_executed_at_the_next_look(env: DurableEnv, durable: Declare) -> None:
    @durable
    def double(number: int) -> int:
        return step.run("double", lambda: number * 2)

    result = double.delay(4)
    assert env.run(result.id).result == 8
    assert result.get(timeout=1) == 8


@pytest.mark.parametrize("wrong", [len, "double", None, 5])
def test_what_is_no_durable_task_is_refused(env: DurableEnv, ordinary: Declare, wrong: Any) -> None:
    with pytest.raises(TypeError, match="base=DurableTask"):
        env.start(wrong, 1)


def test_an_ordinary_task_is_refused(env: DurableEnv, ordinary: Declare) -> None:
    @ordinary
    def plain() -> None: ...

    with pytest.raises(TypeError, match="base=DurableTask"):
        env.start(plain)
    with pytest.raises(TypeError, match="base=DurableTask"):
        env.start(plain.s())


def test_a_signature_with_arguments_beside_it_is_refused(env: DurableEnv, durable: Declare) -> None:
    @durable
    def double(number: int) -> int:
        return number

    with pytest.raises(TypeError, match="into the signature"):
        env.start(double.s(), 1)


def test_wrong_arguments_are_told_at_the_start(env: DurableEnv, durable: Declare) -> None:
    @durable
    def double(number: int) -> int:
        return number

    with pytest.raises(TypeError):
        env.start(double)
    assert env.runs == []


# ------------------------------------------------------------------------ events


def test_events_before_and_after_the_wait(env: DurableEnv, durable: Declare) -> None:
    @durable
    def two() -> Any:
        step.sleep("nap", "1h")
        first = step.wait_for_event("first", "paid", key="a")
        second = step.wait_for_event("second", "paid", key="a", match={"n": 3})
        return [event and event.payload for event in (first, second)]

    run = env.start(two)
    env.emit("paid", {"n": 0}, key="b")
    env.emit("paid", {"n": 1}, key="a")
    env.advance("1h")
    env.emit("paid", {"n": 2}, key="a")
    run.assert_waiting_on("paid")
    env.emit("paid", {"n": 3}, key="a")
    run.assert_completed([{"n": 1}, {"n": 3}])


def test_an_event_with_an_id_is_delivered_once(env: DurableEnv, durable: Declare) -> None:
    @durable
    def twice() -> Any:
        return [step.wait_for_event(name, "paid") is not None for name in "ab"]

    run = env.start(twice)
    assert env.emit("paid", event_id="e").id == "e"
    env.emit("paid", event_id="e")
    run.assert_status("suspended")
    env.emit("paid", event_id="f")
    run.assert_completed([True, True])


def test_emitting_before_anything_is_started_needs_the_app(durable: Declare, app: Any) -> None:
    durable(waits(), name="waiter")
    with DurableEnv(app) as env:
        env.emit("paid", 1, key="k")
        run = env.start(app.tasks["waiter"])
        run.assert_status("suspended")  # an event from before its start is not for it


@pytest.mark.parametrize("bare", [False, True], ids=["session", "connection"])
def test_what_commits_with_rows_of_the_apps_is_there_after_the_commit(
    env: DurableEnv, durable: Declare, tmp_path: Path, bare: bool
) -> None:
    """It had been refused: the records of a test are in memory, and so on another database than the session."""
    task = durable(waits(), name="waiter")
    env.start(task, "other")
    engine = create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    with engine.connect() if bare else Session(engine) as session:
        task.apply_async(("k",), task_id="rolled-back", session=session)
        env.durable.emit("paid", "rolled back", key="other", session=session)
        session.rollback()
        task.apply_async(("k",), task_id="committed", session=session)
        receipt = env.durable.emit("paid", "committed", key="other", session=session)
        assert [run.id for run in env.runs if run.id == "committed"] == []
        session.commit()
    assert [run.record.args for run in env.runs] == [["other"], ["k"]]
    assert env.runs[0].result == "committed"
    assert env.durable.event(receipt.id).woke == (env.runs[0].id,)


@pytest.mark.parametrize(("on_timeout", "status"), [("none", "completed"), ("fail", "failed"), ("cancel", "cancelled")])
def test_each_kind_of_timeout(env: DurableEnv, durable: Declare, on_timeout: str, status: Any) -> None:
    task = durable(waits(timeout="24h", on_timeout=on_timeout), name="waiter")
    run = env.start(task)
    env.advance("23h59m59s")
    run.assert_status("suspended")
    env.advance("1s")
    run.assert_status(status)
    if status == "failed":
        run.assert_failed(EventTimeout)


def test_the_event_comes_at_the_last_moment(env: DurableEnv, durable: Declare) -> None:
    run = env.start(durable(waits(timeout="24h", on_timeout="fail"), name="waiter"))
    env.advance("23h59m59.999s")
    env.emit("paid", 1, key="k")
    env.run_until_idle()
    run.assert_completed(1)


def test_a_step_that_takes_too_long_by_the_env_clock(env: DurableEnv, durable: Declare) -> None:
    @durable
    def slow() -> Any:
        return step.options(timeout="1h", retry=Retry(max_attempts=1)).run("slow", env.advance, "2h")

    run = env.start(slow)
    assert run.status in ("failed", "completed")


def test_two_apps(env: DurableEnv, durable: Declare) -> None:
    theirs = new_app("theirs")
    from celery_durable import DurableTask

    @theirs.task(shared=False, base=DurableTask, name="theirs")
    def other() -> Any:
        step.sleep("1h")
        return step.run("x", lambda: 1)

    @durable
    def mine() -> Any:
        step.sleep("2h")
        return 2

    runs = [env.start(mine), env.start(other)]
    env.run_until_idle()
    assert [run.result for run in runs] == [2, 1]
