"""How a pass leaves the body: nothing that the body catches keeps it in, and nothing is done twice on the way."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, field_serializer

from celery_durable import step
from celery_durable.engine.current import current_pass
from celery_durable.engine.executor import Failed, Finished, Gone, Parked
from celery_durable.engine.settings import Settings
from celery_durable.store.records import Claim, Fence

from .driving import Driver

Started = Callable[..., Driver]


def test_except_exception_does_not_swallow_a_suspension(started: Started) -> None:
    def body() -> str:
        try:
            step.sleep("nap", "1h")
        except Exception:
            return "swallowed"
        return "slept"

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    driver.let_time_pass()
    assert driver.value() == "slept"


def test_a_bare_except_does_not_either(started: Started) -> None:
    reached: list[str] = []

    def body() -> str:
        try:
            step.sleep("nap", "1h")
        except:  # noqa: E722
            reached.append("except")
            with contextlib.suppress(BaseException):
                step.run("in except", lambda: reached.append("step"))
            return "swallowed"
        return "slept"

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    assert (reached, list(driver.steps())) == (["except"], ["nap"])
    driver.let_time_pass()
    assert driver.value() == "slept"


def test_clean_up_runs_once_on_the_pass_that_leaves_the_block(started: Started) -> None:
    tidied: list[int] = []

    def body() -> str:
        try:
            step.sleep("one", "1h")
            step.sleep("two", "1h")
        finally:
            step.run("tidy", lambda: tidied.append(1))
            step.sleep("three", "1h")
        return "done"

    driver = started(body)
    assert driver.value() == "done"
    assert tidied == [1]
    assert list(driver.steps()) == ["one", "two", "tidy", "three"]


VERBS: dict[str, Callable[[], Any]] = {
    "run": lambda: step.run("late", int),
    "decorated": lambda: step(lambda: 1)(),
    "transaction": lambda: step.transaction("late", lambda session: 1),
    "sleep": lambda: step.sleep("late", "1h"),
    "sleep_until": lambda: step.sleep_until("late", 0),
    "now": lambda: step.now(),
    "random": lambda: step.random(),
    "uuid4": lambda: step.uuid4(),
    "wrap": lambda: step.wrap("late", [].copy)(),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_goes_on_unwinding(started: Started, verb: str) -> None:
    def body() -> None:
        try:
            step.sleep("nap", "1h")
        finally:
            VERBS[verb]()

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    assert list(driver.steps()) == ["nap"]


def test_an_error_raised_on_the_way_out_is_dropped_and_logged(
    started: Started, caplog: pytest.LogCaptureFixture
) -> None:
    def body() -> None:
        try:
            step.sleep("nap", "1h")
        finally:
            raise ValueError("in finally")

    driver = started(body)
    with caplog.at_level(logging.WARNING, "celery_durable"):
        assert isinstance(driver.one_pass(), Parked)
    assert "an error was raised while the run was being parked" in caplog.text
    driver.let_time_pass()
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert str(ended.error) == "in finally"


def test_a_context_manager_that_swallows_everything(started: Started) -> None:
    class Swallow:
        def __enter__(self) -> None: ...

        def __exit__(self, *exc: object) -> bool:
            return True

    def body() -> str:
        with Swallow():
            step.sleep("nap", "1h")
        return "past it"

    driver = started(body)
    assert isinstance(driver.one_pass(), Parked)
    assert driver.run()["status"] == "suspended"
    driver.let_time_pass()
    assert driver.value() == "past it"


def test_a_generator_body_part_that_is_left_open(started: Started) -> None:
    closed: list[str] = []

    def parts() -> Any:
        try:
            yield step.run("a", int)
            step.sleep("nap", "1h")
            yield step.run("b", int)
        finally:
            closed.append("closed")

    driver = started(lambda: list(parts()))
    assert driver.value() == [0, 0]
    assert closed == ["closed", "closed"]


class Broken(BaseModel):
    value: int

    @field_serializer("value")
    def fail(self, value: int) -> int:
        raise RuntimeError("the user's own serializer")


def test_a_result_that_fails_to_be_written_fails_the_run(started: Started) -> None:
    driver = started(lambda: Broken(value=1), result=Broken)
    assert isinstance(driver.one_pass(), Failed)
    assert driver.run()["status"] == "failed"


def test_an_error_of_the_run_that_is_too_large_is_shortened(started: Started) -> None:
    def body() -> None:
        raise ValueError("x" * 100_000)

    driver = started(body, settings=Settings(max_payload=50_000))
    assert isinstance(driver.one_pass(), Failed)
    assert len(driver.run()["error"]) <= 50_000


def test_nothing_of_the_pass_is_left_behind(started: Started) -> None:
    driver = started(lambda: step.sleep("nap", "1h"))
    driver.one_pass()
    assert current_pass.get() is None


def test_nothing_is_left_behind_by_a_process_that_is_told_to_exit(started: Started) -> None:
    driver = started(sys.exit)
    with pytest.raises(SystemExit):
        driver.one_pass()
    assert current_pass.get() is None


# -- A run that is another's by now


def taken(driver: Driver) -> Claim:
    """Another worker takes the run over."""
    with driver.store.link() as link:
        assert driver.store.recover(link, Fence("r1", driver.run()["token"]))
        claim = driver.store.claim(link, "r1", worker="other/2", lease=driver.settings.lease)
    assert isinstance(claim, Claim)
    return claim


@pytest.mark.parametrize(
    "after",
    [
        lambda: step.run("late", int),
        lambda: step.sleep("late", "1h"),
        lambda: step.now(),
        lambda: "the end",
        lambda: 1 // 0,
        lambda: step.options(at_most_once=True).run("late", pytest.fail, "it ran"),
    ],
    ids=["run", "sleep", "now", "return", "raise", "at most once"],
)
def test_what_a_worker_does_that_lost_its_run_has_no_effect(started: Started, after: Callable[[], Any]) -> None:
    def body() -> Any:
        step.run("early", int)
        taken(driver)
        return after()

    driver = started(body)
    assert isinstance(driver.one_pass(), Gone)
    run = driver.run()
    assert (run["status"], run["worker"], run["result"], run["error"]) == ("running", "other/2", None, None)
    assert list(driver.steps()) == ["early"]
    assert driver.dispatcher.woken == []


def test_a_verb_after_the_loss_goes_on_unwinding(started: Started) -> None:
    later: list[str] = []

    def body() -> str:
        taken(driver)
        try:
            step.run("late", int)
        except BaseException:
            try:
                step.run("later", lambda: later.append("ran"))
            except Exception:
                later.append("an error")
        return "the end"

    driver = started(body)
    assert isinstance(driver.one_pass(), Gone)
    assert later == []
    assert driver.steps() == {}


def test_a_worker_that_shuts_down_hands_over_at_the_next_step(started: Started) -> None:
    calls: list[str] = []

    def body() -> str:
        step.run("a", lambda: calls.append("a"))
        driver.dispatcher.is_stopping = len(calls) == 1
        step.run("b", lambda: calls.append("b"))
        return "done"

    driver = started(body)
    assert driver.one_pass() == Parked("a worker, its last one is shutting down")
    assert calls == ["a"]
    driver.dispatcher.is_stopping = False
    calls.append("-")
    ended = driver.one_pass()
    assert isinstance(ended, Finished)
    assert calls == ["a", "-", "b"]


def test_replaying_goes_on_while_the_worker_shuts_down(started: Started) -> None:
    def body() -> str:
        step.run("a", int)
        step.sleep("nap", "1h")
        return "done"

    driver = started(body)
    driver.one_pass()
    driver.let_time_pass()
    driver.dispatcher.is_stopping = True
    assert driver.value() == "done"
