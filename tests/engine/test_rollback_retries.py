"""Undos that take more than one pass: their retries, and workers that die while they undo."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from celery_durable import NonRetryable, Retry, step
from celery_durable.engine.executor import Cancelled, Ended, Failed, Gone, Parked
from celery_durable.store.store import Store

from .controls import ONCE, Fed, Starting, Undone, cancel, counted, notes_of, recover
from .test_async_crashes import Crash
from .test_errors import Died
from .test_rollback import LATER, broken

# -- Retries


def flaky(log: list[str], name: str, attempts: int) -> None:
    attempt = step.current().attempt
    log.append(f"{name}-{attempt}")
    if attempt < attempts:
        raise ConnectionError(f"attempt {attempt}")


def test_an_undo_is_tried_again_and_the_run_is_parked_meanwhile(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> None:
        await step.on_rollback("last", undone.undo, "last")
        await step.options(retry=LATER).on_rollback("flaky", lambda name: flaky(undone.log, name, 3), "flaky")
        await step.on_rollback("first", undone.undo, "first")
        raise LookupError("no seat")

    driver = start(body)
    for attempt in (1, 2):
        parked = driver.parks()
        assert f"attempt {attempt + 1} of step 'flaky'" in parked.waiting_on
        assert undone.log == ["first", *(f"flaky-{number}" for number in range(1, attempt + 1))]
        assert driver.run()["due_at"] is not None
        driver.let_time_pass()
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, LookupError)
    assert undone.log == ["first", "flaky-1", "flaky-2", "flaky-3", "last"]
    assert driver.steps()["flaky"]["attempts"] == 3
    assert notes_of(driver) == ()


def test_an_undo_has_the_retries_of_the_tasks_steps(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> None:
        await step.on_rollback("flaky", lambda: flaky(undone.log, "flaky", 9))
        raise ValueError("no")

    driver = start(body, step_retry=Retry(max_attempts=2, delay=0))
    assert isinstance(driver.one_pass(), Failed)
    assert undone.log == ["flaky-1", "flaky-2"]


@pytest.mark.parametrize("cancelled", [True, False])
def test_an_undo_that_fails_for_good_does_not_stop_the_others(start: Starting, undone: Undone, cancelled: bool) -> None:
    def never() -> None:
        undone.log.append("never")
        raise NonRetryable("gone")

    async def body(step: Any) -> None:
        await step.on_rollback("last", undone.undo, "last")
        await step.options(retry=LATER).on_rollback("never", never)
        await step.options(retry=ONCE).on_rollback("broken", broken)
        await step.on_rollback("first", undone.undo, "first")
        await step.sleep("nap", "1h")
        raise LookupError("no seat")

    driver = start(body)
    driver.parks()
    if cancelled:
        cancel(driver)
    else:
        driver.let_time_pass()
    assert isinstance(driver.one_pass(), Cancelled if cancelled else Failed)
    assert undone.log == ["first", "never", "last"]
    about_broken, about_never = notes_of(driver)
    assert about_broken == "celery_durable: the undo 'broken' failed: ConnectionError: refused"
    assert about_never == "celery_durable: the undo 'never' failed: NonRetryable: gone"
    assert {name: driver.steps()[name]["status"] for name in ("broken", "never")} == dict.fromkeys(
        ("broken", "never"), "failed"
    )


@pytest.mark.parametrize("parks", [False, True], ids=["in one pass", "in two"])
def test_what_could_not_be_undone_is_noted_on_the_error_that_celery_is_told(
    start: Starting, undone: Undone, parks: bool
) -> None:
    async def body(step: Any) -> None:
        await step.options(retry=LATER).on_rollback("flaky", lambda: flaky(undone.log, "flaky", 1 + parks))
        await step.options(retry=ONCE).on_rollback("broken", broken)
        raise LookupError("no seat")

    driver = start(body)
    ended = driver.finish()
    assert isinstance(ended, Failed)
    assert isinstance(ended.error, LookupError)
    assert notes_of(driver) == ("celery_durable: the undo 'broken' failed: ConnectionError: refused",)
    assert ended.error.__notes__ == list(notes_of(driver))


@pytest.mark.parametrize("done", [1, 6])
def test_an_undo_that_is_recorded_costs_no_statement(start: Starting, undone: Undone, done: int) -> None:
    async def body(step: Any) -> None:
        await step.options(retry=LATER).on_rollback("flaky", lambda: flaky(undone.log, "flaky", 3))
        for number in range(done):
            await step.on_rollback(f"undo-{number}", undone.undo, f"{number}")
        raise ValueError("no")

    driver = start(body)
    driver.parks()
    driver.let_time_pass()
    with counted(driver.store.engine) as statements:
        driver.parks()
    assert len(statements) == 4, statements  # the claim and the history; the step that is tried again, and the run
    assert len(undone.log) == done + 2


# -- Workers that die


def test_a_worker_that_dies_in_an_undo(start: Starting, undone: Undone) -> None:
    """The one that was under way is done again, those before it are not."""

    def dies_once() -> None:
        undone.log.append("dies")
        if undone.log.count("dies") == 1:
            raise Died

    async def body(step: Any) -> None:
        await step.on_rollback("last", undone.undo, "last")
        await step.on_rollback("dies", dies_once)
        await step.on_rollback("first", undone.undo, "first")
        raise LookupError("no seat")

    driver = start(body)
    with pytest.raises(Died):
        driver.one_pass()
    assert driver.run()["status"] == "running"
    recover(driver)
    assert isinstance(driver.one_pass(), Failed)
    assert undone.log == ["first", "dies", "dies", "last"]
    assert [kind for _, kind in driver.kinds()] == ["rollback", "undo", "undo", "undo"]


def to_its_end(driver: Fed, run_id: str) -> Ended:
    """Passes until the run ends: what it waits for comes, or it is cancelled where it waits for good."""
    for _ in range(10):
        run = driver.run(run_id)
        if run["status"] == "running":
            recover(driver, run_id)
        elif run["status"] == "suspended" and run["due_at"] is None:
            cancel(driver, run_id)
        elif run["status"] == "suspended":
            driver.let_time_pass(run_id)
        ended = driver.one_pass(run_id)
        if not isinstance(ended, Parked):
            return ended
    raise AssertionError(f"run {run_id} did not end")


def test_a_worker_that_is_stopped_while_a_cancelled_body_cleans_up(start: Starting, undone: Undone) -> None:
    """That is no end of the body's: the cleaning up is done by the next worker, and then the undos."""

    def tidy() -> None:
        undone.log.append("tidy")
        if undone.log.count("tidy") == 1:
            raise SystemExit

    async def body(step: Any) -> None:
        await step.on_rollback("undo", undone.undo, "undo")
        try:
            await step.wait_for_event("never")
        finally:
            await step.run("tidy", tidy)

    driver = start(body)
    driver.parks()
    cancel(driver)
    with pytest.raises(SystemExit):
        driver.one_pass()
    assert undone.log == ["tidy"]
    recover(driver)
    assert isinstance(driver.one_pass(), Cancelled)
    assert undone.log == ["tidy", "tidy", "undo"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("way", ["fails", "is cancelled"])
def test_a_worker_that_dies_at_any_write(
    store: Store, start: Starting, monkeypatch: pytest.MonkeyPatch, way: str, after: bool
) -> None:
    """However it goes, each undo is done, in order, and recorded once."""
    log: list[str] = []

    def undo(name: str) -> None:
        log.append(name)
        if name == "b" and step.current().attempt == 1:
            raise ConnectionError("refused")

    async def body(step: Any) -> None:
        for name in "abc":
            await step.run(f"do {name}", int)
            await step.options(retry=LATER).on_rollback(name, undo, name)
        if way == "fails":
            raise LookupError("no seat")
        await step.wait_for_event("never")

    for at in itertools.count(1):
        log.clear()
        run_id = f"{way} {at}"
        driver, crash = start(body, run_id=run_id), Crash(at, after)
        with monkeypatch.context() as patched, contextlib.suppress(Died):
            crash.patch(patched, store)
            to_its_end(driver, run_id)
        if crash.left > 0:
            assert at > 8  # so many writes there are
            return
        ended = to_its_end(driver, run_id)
        assert isinstance(ended, Failed if way == "fails" else Cancelled), (at, ended)
        assert {row["status"] for row in driver.steps(run_id).values()} <= {"completed", "failed"}
        assert sorted(name for name, kind in driver.kinds(run_id) if kind == "undo") == ["a", "b", "c"]
        assert [name for name, _ in itertools.groupby(log)] == ["c", "b", "a"], (at, log)
        assert all(1 <= log.count(name) <= most for name, most in (("a", 2), ("b", 3), ("c", 2))), (at, log)


def test_undos_are_recorded_in_the_order_in_which_they_were_done(start: Starting, undone: Undone) -> None:
    async def body(step: Any) -> None:
        await step.on_rollback("a", undone.undo, "a")
        await step.on_rollback("b", undone.undo, "b")
        await step.options(retry=LATER).on_rollback("z", lambda: flaky(undone.log, "z", 2))
        raise LookupError("no seat")

    driver = start(body)
    driver.finish()
    assert undone.log == ["z-1", "z-2", "b", "a"]
    assert driver.kinds() == [("(rollback)", "rollback"), ("z", "undo"), ("b", "undo"), ("a", "undo")]
    positions = [row["position"] for row in driver.steps().values()]
    assert len(set(positions)) == 4, positions


def test_a_worker_that_has_lost_its_run_stops_undoing(start: Starting, undone: Undone) -> None:
    ends: list[Any] = []

    async def body(step: Any) -> None:
        await step.on_rollback("last", undone.undo, "last")
        await step.on_rollback("taken", taken)
        await step.on_rollback("first", undone.undo, "first")
        raise LookupError("no seat")

    def taken() -> None:
        undone.log.append("taken")
        if undone.log.count("taken") == 1:
            recover(driver)
            ends.append(in_another_thread(driver.one_pass))

    driver = start(body)
    assert isinstance(driver.one_pass(), Gone)
    assert isinstance(ends[0], Failed)
    assert undone.log == ["first", "taken", "taken", "last"]


def in_another_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()
