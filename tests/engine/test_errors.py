"""Errors of steps, their retries, time limits, and what a step knows about itself."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from celery_durable import (
    NonRetryable,
    Retry,
    RetryAfter,
    StepFailed,
    StepInterrupted,
    StepTimeout,
    step,
)
from celery_durable.engine.control import RunRetry
from celery_durable.engine.executor import Failed, Finished, Gone, Parked
from celery_durable.engine.settings import Settings
from celery_durable.store.records import Fence
from celery_durable.store.store import Store

from .driving import LEASE, Driver

Started = Callable[..., Driver]
ONCE = Retry(max_attempts=1)


class Declined(Exception):
    def __init__(self, code: int, response: object = None) -> None:
        super().__init__(f"declined: {code}")
        self.code = code
        self.response = response


# -- Errors


def test_an_error_is_the_same_in_every_pass(started: Started) -> None:
    seen: list[BaseException] = []

    def decline() -> None:
        raise Declined(51, object())

    def body() -> str:
        try:
            step.options(retry=ONCE).run("charge", decline)
        except Declined as error:
            seen.append(error)
        step.sleep("nap", "1h")
        return "went on"

    assert started(body).value() == "went on"
    first, second = seen
    assert type(first) is type(second) is Declined
    assert (first.code, str(first), first.__notes__) == (second.code, str(second), second.__notes__)
    assert first.__notes__ == [
        "celery_durable: step 'charge' of run r1 failed",
        "not kept with the record: the attributes response",
    ]
    assert not hasattr(first, "response")


def test_the_note_tells_the_attempts(started: Started) -> None:
    def fail() -> None:
        raise ValueError("no")

    ended = started(lambda: step.options(retry=Retry(3, delay=0)).run("s", fail)).finish()
    assert isinstance(ended, Failed)
    assert ended.error.__notes__ == ["celery_durable: step 's' of run r1 failed after 3 attempts"]


def test_an_error_that_can_not_be_rebuilt_is_step_failed_in_every_pass(started: Started) -> None:
    class Local(Exception):
        pass

    seen: list[BaseException] = []

    def fail() -> None:
        raise Local("inside")

    def body() -> None:
        try:
            step.options(retry=ONCE).run("s", fail)
        except Exception as error:
            seen.append(error)
        step.sleep("nap", "1h")

    started(body).finish()
    assert [type(error) for error in seen] == [StepFailed, StepFailed]
    assert str(seen[0]) == str(seen[1])
    assert str(seen[0]).endswith("Local: inside")


def test_an_error_that_leaves_the_body_ends_the_run(started: Started) -> None:
    def body() -> None:
        step.run("a", int)
        raise Declined(7)

    driver = started(body)
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, Declined)
    run = driver.run()
    assert run["status"] == "failed"
    assert "declined: 7" in run["error"]


# -- Retries


def test_a_retry_parks_and_does_not_sleep(started: Started) -> None:
    attempts: list[int] = []

    def flaky() -> str:
        attempts.append(step.current().attempt)
        if len(attempts) < 3:
            raise ConnectionError("away")
        return "there"

    driver = started(lambda: step.run("fetch", flaky), step_retry=Retry(4, "1h", max_delay="1d", jitter=False))
    for attempt, hours in ((2, 1), (3, 2)):
        ended = driver.one_pass()
        assert ended == Parked(f"attempt {attempt} of step 'fetch', after ConnectionError: away")
        run, row = driver.run(), driver.steps()["fetch"]
        assert (run["status"], row["status"], row["attempts"]) == ("suspended", "waiting", attempt - 1)
        with driver.store.link() as link:
            delay = run["wake_at"] - driver.store.now(link)
        assert delay == pytest.approx(hours * 3_600e6, abs=60e6)
        driver.let_time_pass()
    assert driver.value() == "there"
    assert attempts == [1, 2, 3]
    assert driver.steps()["fetch"]["attempts"] == 3


def test_the_steps_own_policy_wins(started: Started) -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise ValueError

    driver = started(lambda: step.options(retry=Retry(2, delay=0)).run("s", fail), step_retry=Retry(9, delay=0))
    assert isinstance(driver.one_pass(), Failed)
    assert len(calls) == 2


def test_non_retryable_is_the_last_attempt(started: Started) -> None:
    def fail() -> None:
        raise NonRetryable("give up")

    driver = started(lambda: step.run("s", fail))
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, NonRetryable)
    assert driver.steps()["s"]["attempts"] == 1


def test_retry_after_sets_the_delay(started: Started) -> None:
    def fail() -> None:
        raise RetryAfter("2h", "busy")

    driver = started(lambda: step.options(retry=Retry(2, delay="1s")).run("s", fail))
    assert driver.one_pass() == Parked("attempt 2 of step 's', after RetryAfter: busy")
    run = driver.run()
    assert run["wake_at"] - run["started_at"] == pytest.approx(7_200e6, abs=5e6)
    driver.let_time_pass()
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, RetryAfter)


def test_a_wrong_retry_after_fails_the_step(started: Started) -> None:
    def fail() -> None:
        raise RetryAfter("soon")

    ended = started(lambda: step.run("s", fail)).one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, RetryAfter)


def test_errors_of_the_worker_are_not_retried(started: Started) -> None:
    def fail() -> None:
        raise TimeoutError("the worker's soft time limit")

    driver = started(lambda: step.run("s", fail), settings=Settings(lease=LEASE, never_retry=(TimeoutError,)))
    assert isinstance(driver.one_pass(), Failed)


def test_a_retry_of_the_whole_run_keeps_what_is_done(started: Started) -> None:
    calls: list[str] = []

    def fail_once() -> str:
        calls.append("fail")
        if len(calls) < 3:
            raise ConnectionError("away")
        return "there"

    def body() -> str:
        step.run("kept", lambda: calls.append("kept"))
        try:
            return step.options(retry=ONCE).run("fetch", fail_once)
        except ConnectionError as error:
            raise RunRetry(error, 3_600_000_000) from error

    driver = started(body)
    ended = driver.one_pass()
    assert isinstance(ended, Parked)
    assert ended.waiting_on == "retry 1 of the run in 1h, after ConnectionError: away"
    assert ended.retry is not None
    assert driver.steps()["fetch"]["attempts"] == 0
    assert driver.run()["retries"] == 1
    driver.let_time_pass()
    assert driver.value() == "there"
    assert calls == ["kept", "fail", "fail"]


def test_a_retry_of_the_run_leaves_errors_that_were_dealt_with(started: Started) -> None:
    calls: list[str] = []

    def fail(name: str) -> None:
        calls.append(name)
        raise ValueError(name)

    def body() -> None:
        once = step.options(retry=ONCE)
        with contextlib.suppress(ValueError):
            once.run("dealt with", fail, "dealt with")
        try:
            once.run("blamed", fail, "blamed")
        except ValueError as error:
            if len(calls) < 3:
                raise RunRetry(error, 1) from None
            raise

    driver = started(body)
    assert isinstance(driver.finish(), Failed)
    assert calls == ["dealt with", "blamed", "blamed"]


# -- At most once


def test_at_most_once_is_not_retried(started: Started) -> None:
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise ConnectionError

    careful = step.options(at_most_once=True, retry=Retry(5, delay=0))
    ended = started(lambda: careful.run("pay", fail)).one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, ConnectionError)
    assert calls == [1]


def interrupted(driver: Driver) -> None:
    """The worker is dead, and the sweeper has seen it."""
    with driver.store.link() as link:
        assert driver.store.recover(link, Fence("r1", driver.run()["token"]))


class Died(BaseException):
    """Ends a pass as a kill does: nothing is recorded any more."""


def test_a_worker_that_dies_inside_at_most_once(started: Started) -> None:
    calls: list[int] = []

    def pay() -> None:
        calls.append(1)
        raise Died

    def body() -> str:
        try:
            step.options(at_most_once=True).run("pay", pay)
        except StepInterrupted as error:
            step.sleep("nap", "1h")
            return str(error)
        return "paid"

    driver = started(body)
    with pytest.raises(Died):
        driver.one_pass()
    interrupted(driver)
    assert driver.value().startswith("step 'pay' of run r1 runs at most once, and the worker died inside it")
    assert calls == [1]
    assert driver.steps()["pay"]["status"] == "failed"


@pytest.mark.parametrize("dies", [True, False])
def test_a_retry_of_the_run_does_not_run_it_a_second_time(started: Started, dies: bool) -> None:
    calls: list[int] = []

    def pay() -> None:
        calls.append(1)
        raise Died if dies else ConnectionError("no answer")

    def body() -> str:
        try:
            step.options(at_most_once=True).run("pay", pay)
        except Exception as error:  # as autoretry_for=(Exception,) does
            if len(calls) < 3:
                raise RunRetry(error, 1) from error
            raise
        return "paid"

    driver = started(body)
    for _ in range(4):
        try:
            ended = driver.one_pass()
        except Died:
            interrupted(driver)
            continue
        if not isinstance(ended, Parked):
            break
        driver.let_time_pass()
    assert calls == [1]


# -- Time limits


SLOW = 20.0


def slow(seconds: float = SLOW) -> str:
    time.sleep(seconds)
    return "late"


def in_thread(work: Callable[[], Any]) -> Any:
    """As in a worker with a pool of threads."""
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(work()))
    thread.start()
    thread.join(30)
    return done[0]


@pytest.mark.parametrize("kind", ["run", "transaction"])
def test_a_step_that_takes_too_long_in_the_main_thread(started: Started, kind: str) -> None:
    limited = step.options(timeout="100ms", retry=ONCE)

    def body() -> None:
        limited.run("s", slow) if kind == "run" else limited.transaction("s", lambda session: slow())

    began = time.monotonic()
    ended = started(body).one_pass()
    assert time.monotonic() - began < SLOW, "it was interrupted"
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, StepTimeout)
    assert str(ended.error) == "step 's' took longer than its timeout of 100ms, and was given up"


def test_a_step_that_takes_too_long_in_another_thread(started: Started) -> None:
    """It can't be interrupted there, and is not waited for."""
    let_go = threading.Event()
    driver = started(lambda: step.options(timeout="100ms", retry=ONCE).run("s", let_go.wait, 60))
    try:
        ended = in_thread(driver.one_pass)
    finally:
        let_go.set()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, StepTimeout)


def test_a_heartbeat_of_a_function_that_was_given_up_has_no_effect(postgresql_url: str) -> None:
    given_up, beaten = threading.Event(), threading.Event()

    def beating() -> None:
        given_up.wait(10)
        try:
            step.current().heartbeat(1)
        finally:
            beaten.set()

    def body() -> str:
        with contextlib.suppress(StepTimeout):
            step.options(timeout="50ms", retry=ONCE).run("given up", beating)
        given_up.set()
        beaten.wait(10)
        return step.run("next", str, "done")

    store = Store(postgresql_url)
    store.migrate()
    driver = Driver(store, body)
    driver.start()
    ended = in_thread(driver.one_pass)
    store.engine.dispose()
    assert ended == Finished("done")


@pytest.mark.parametrize("threaded", [False, True])
def test_a_step_that_is_in_time(started: Started, threaded: bool) -> None:
    def quick() -> str:
        return step.current().step_id  # the context is there, wherever the function runs

    def fail() -> None:
        raise ValueError("its own")

    def body() -> list[str]:
        limited = step.options(timeout="10s", retry=ONCE)
        found = [limited.run("quick", quick)]
        try:
            limited.run("fail", fail)
        except ValueError as error:
            found.append(str(error))
        return found

    driver = started(body)
    value = in_thread(driver.value) if threaded else driver.value()
    assert value == ["quick", "its own"]


def test_a_timeout_is_retried(started: Started) -> None:
    def slow_at_first() -> str:
        return slow(20 if step.current().attempt == 1 else 0)

    driver = started(lambda: step.options(timeout=1.0, retry=Retry(2, delay="1h")).run("s", slow_at_first))
    assert isinstance(driver.one_pass(), Parked)
    driver.let_time_pass()
    assert driver.value() == "late"


def test_the_function_can_not_swallow_its_time_limit(started: Started) -> None:
    def stubborn() -> str:
        try:
            return slow()
        except Exception:
            return "swallowed"

    ended = started(lambda: step.options(timeout=0.05, retry=ONCE).run("s", stubborn)).one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, StepTimeout)


# -- What a step knows


def test_current(started: Started) -> None:
    seen: list[tuple[Any, ...]] = []

    def look() -> None:
        now = step.current()
        seen.append((now.run_id, now.step_id, now.attempt, now.idempotency_key))
        if now.attempt < 2:
            raise ConnectionError

    def body() -> None:
        step.run("one", look)
        step.options(retry=ONCE).run("two", lambda: seen.append((step.current().idempotency_key,)))

    started(body).finish()
    assert seen == [("r1", "one", 1, "r1:one"), ("r1", "one", 2, "r1:one"), ("r1:two",)]


def test_a_heartbeat_reaches_the_next_attempt(started: Started) -> None:
    seen: list[Any] = []

    def long() -> str:
        now = step.current()
        seen.append(now.last_heartbeat)
        now.heartbeat({"row": 10 * now.attempt})
        if now.attempt < 3:
            raise ConnectionError
        return "done"

    driver = started(lambda: step.run("long", long))
    assert driver.value() == "done"
    assert seen == [None, {"row": 10}, {"row": 20}]
    assert driver.steps()["long"]["heartbeat"] == '{"row":30}'


def test_a_heartbeat_reaches_the_next_worker(started: Started) -> None:
    seen: list[Any] = []

    def long() -> str:
        now = step.current()
        seen.append((now.attempt, now.last_heartbeat))
        if now.last_heartbeat is None:
            now.heartbeat(7)
            raise Died
        return "done"

    driver = started(lambda: step.run("long", long))
    with pytest.raises(Died):
        driver.one_pass()
    interrupted(driver)
    assert driver.value() == "done"
    assert seen == [(1, None), (1, 7)]


def test_a_heartbeat_of_a_worker_that_lost_the_run_stops_it(started: Started) -> None:
    seen: list[str] = []

    def long() -> None:
        interrupted(driver)
        seen.append("before")
        step.current().heartbeat(1)
        seen.append("after")

    driver = started(lambda: step.run("long", long))
    assert isinstance(driver.one_pass(), Gone)
    assert seen == ["before"]
    assert driver.steps() == {}


# -- step.transaction


@pytest.fixture
def table(store: Store) -> None:
    with store.engine.connect() as connection:
        connection.execute(text("CREATE TABLE paid (name VARCHAR(20) PRIMARY KEY)"))


def paid(driver: Driver) -> list[str]:
    with driver.store.engine.connect() as connection:
        return list(connection.execute(text("SELECT name FROM paid ORDER BY name")).scalars())


def pay(session: Any, name: str) -> str:
    session.execute(text("INSERT INTO paid VALUES (:name)"), {"name": name})
    return name


@pytest.mark.usefixtures("table")
def test_a_transaction_and_its_record_are_there_together(started: Started) -> None:
    def fail(session: Any, name: str) -> None:
        pay(session, name)
        raise NonRetryable("rolled back")

    def unstorable(session: Any, name: str) -> object:
        pay(session, name)
        return object()

    def body() -> list[Any]:
        found: list[Any] = [step.transaction("a", pay, "a")]
        for step_id, fn in (("b", fail), ("c", unstorable), ("d", pay)):
            try:
                found.append(step.transaction(step_id, fn, "a" if step_id == "d" else step_id))
            except Exception as error:
                found.append(type(error).__name__)
        return found

    driver = started(body, step_retry=ONCE)
    assert driver.value() == ["a", "NonRetryable", "NotSerializable", "IntegrityError"]
    assert paid(driver) == ["a"]
    assert {name: row["status"] for name, row in driver.steps().items()} == {
        "a": "completed", "b": "failed", "c": "failed", "d": "failed",
    }  # fmt: skip


def test_a_worker_that_lost_the_run_takes_its_writes_back(mysql_url: str) -> None:
    store = Store(mysql_url)  # SQLite would let nobody take the run over meanwhile
    store.migrate()
    with store.engine.connect() as connection:
        connection.execute(text("CREATE TABLE paid (name VARCHAR(20) PRIMARY KEY)"))

    def pay_and_lose(session: Any) -> None:
        pay(session, "a")
        interrupted(driver)

    driver = Driver(store, lambda: step.transaction("a", pay_and_lose))
    driver.start()
    assert isinstance(driver.one_pass(), Gone)
    assert paid(driver) == []
    assert driver.steps() == {}
    store.engine.dispose()


@pytest.mark.usefixtures("table")
def test_a_commit_of_the_users_own_is_caught(started: Started) -> None:
    """A session.commit() inside would part the effect from the record."""

    def commits(session: Any) -> None:
        pay(session, "a")
        session.commit()

    driver = started(lambda: step.transaction("a", commits), step_retry=ONCE)
    ended = driver.one_pass()
    if isinstance(ended, Finished):
        assert paid(driver) == ["a"]
        assert driver.steps()["a"]["status"] == "completed"
    else:
        assert isinstance(ended, Failed)
        assert paid(driver) == []


@pytest.mark.usefixtures("table")
def test_a_rollback_of_the_users_own(started: Started) -> None:
    """How an INSERT of what may be there already is written."""

    def pay_once(session: Any, name: str) -> str:
        try:
            pay(session, name)
        except IntegrityError:
            session.rollback()
            return "was there"
        return "paid"

    driver = started(lambda: [step.transaction(step_id, pay_once, "a") for step_id in ("a", "b")], step_retry=ONCE)
    assert driver.value() == ["paid", "was there"]


def test_a_heartbeat_inside_a_transaction(database_url: str) -> None:
    store = Store(database_url)
    store.migrate()

    def long(session: Any) -> str:
        step.current().heartbeat(1)
        return "done"

    driver = Driver(store, lambda: step.transaction("a", long))
    driver.start()
    assert driver.value() == "done"
    # On SQLite it would wait for the very transaction it is called in, and is left out.
    assert driver.steps()["a"]["heartbeat"] == (None if store.dialect.one_writer else "1")
    store.engine.dispose()
