"""What a run says of itself: ``step.set_progress``, for whoever looks, and ``get_logger``, for who reads logs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

import pytest

from celery_durable import NotInDurableTask, NotSerializable, PayloadTooLarge, Progress, aio, get_logger, step
from celery_durable.client.reading import Reader
from celery_durable.engine.control import RunRetry
from celery_durable.engine.executor import Failed, Finished, Gone, Parked
from celery_durable.engine.settings import Settings
from celery_durable.store.store import Store

from .controls import ONCE, Starting, counted, recover
from .driving import LEASE, Driver
from .test_rollback import LATER


def progress(store: Store, run_id: str = "r1") -> Progress | None:
    return Reader(lambda: store, lambda value: value).get(run_id).progress


# -- Progress


def test_progress_is_read_while_the_run_goes_on_and_after_it(start: Starting) -> None:
    seen: list[Any] = []

    async def body(step: Any) -> None:
        seen.append(progress(driver.store))
        await step.set_progress(0, 2)
        seen.append(progress(driver.store))
        await step.sleep("nap", "1h")
        await step.set_progress(1, total=2, note="half way")
        await step.sleep("nap more", "1h")
        await step.set_progress({"part": "last"})

    driver = start(body)
    driver.parks()
    assert seen == [None, Progress(value=0, total=2, note=None)]
    driver.let_time_pass()
    driver.parks()
    assert progress(driver.store) == Progress(value=1, total=2, note="half way")
    driver.let_time_pass()
    assert isinstance(driver.one_pass(), Finished)
    assert progress(driver.store) == Progress(value={"part": "last"}, total=None, note=None)
    assert driver.kinds() == [("nap", "sleep"), ("nap more", "sleep")]  # it is no step


def test_a_replay_does_not_take_progress_back(start: Starting) -> None:
    """What is seen meanwhile is the last that was said, in every moment of a later pass."""
    seen: list[Any] = []

    async def body(step: Any) -> None:
        for number in range(3):
            await step.set_progress(number)
        seen.append(progress(driver.store))
        await step.sleep("nap", "1h")
        seen.append(progress(driver.store))
        for number in range(3, 5):
            await step.set_progress(number)
        await step.sleep("last", "1h")
        seen.append(progress(driver.store))

    driver = start(body)
    assert isinstance(driver.finish(), Finished)
    assert [found.value for found in seen] == [2, 2, 2, 4, 4, 4]


@pytest.mark.parametrize("said", [1, 7])
def test_progress_costs_a_statement_once(start: Starting, said: int) -> None:
    costs: list[int] = []

    async def body(step: Any) -> None:
        with counted(driver.store.engine) as statements:
            for number in range(said):
                await step.set_progress(number)
        costs.append(len(statements))
        await step.sleep("nap", "1h")

    driver = start(body)
    driver.finish()
    assert costs == [said, 0]


def test_progress_goes_on_after_a_retry_of_the_run(start: Starting) -> None:
    values: list[Any] = []

    async def body(step: Any) -> None:
        await step.set_progress("first")
        await step.set_progress("second")
        values.append(progress(driver.store))
        if len(values) == 1:
            raise RunRetry(ValueError("again"), 1)
        await step.set_progress("third")

    driver = start(body)
    driver.finish()
    assert [found.value for found in values] == ["second", "second"]
    assert progress(driver.store) == Progress(value="third", total=None, note=None)


def test_a_worker_that_has_lost_its_run_says_nothing(start: Starting) -> None:
    async def body(step: Any) -> None:
        recover(driver)
        await step.set_progress("stale")

    driver = start(body)
    assert isinstance(driver.one_pass(), Gone)
    assert progress(driver.store) is None


@pytest.mark.parametrize(("value", "kind"), [(object(), NotSerializable), ("x" * 2000, PayloadTooLarge)])
def test_progress_that_can_not_be_kept_is_told_in_the_body(start: Starting, value: Any, kind: type[Exception]) -> None:
    async def body(step: Any) -> None:
        await step.set_progress(value)

    driver = start(body, settings=Settings(lease=LEASE, max_payload=1000))
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert type(ended.error) is kind
    assert progress(driver.store) is None


def test_progress_is_said_in_the_body_of_a_run(store: Store) -> None:
    with pytest.raises(NotInDurableTask, match=r"step\.set_progress was called in "):
        step.set_progress(1)
    driver = Driver(store, lambda: step.options(retry=ONCE).run("outer", lambda: step.set_progress(1)))
    driver.start()
    ended = driver.one_pass()
    assert isinstance(ended, Failed)
    assert "step.set_progress was called inside the step 'outer'" in str(ended.error)


def test_progress_of_branches_of_a_gather(store: Store) -> None:
    async def branch(name: str) -> None:
        for number in range(3):
            await aio.step.run(f"{name}-{number}", int)
            await aio.step.set_progress(f"{name}-{number}")

    async def body() -> None:
        await asyncio.gather(branch("a"), branch("b"))
        await aio.step.sleep("nap", "1h")

    driver = Driver(store, body)
    driver.start()
    driver.one_pass()
    before = progress(store)
    assert before is not None
    assert before.value in ("a-2", "b-2")
    driver.let_time_pass()
    driver.value()
    assert progress(store) == before


# -- The logger: when it speaks

log = get_logger("tests.shop")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the logger of this file was heard to say."""
    caplog.set_level(logging.INFO, "tests.shop")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "tests.shop"]


def test_each_line_is_said_in_the_first_pass_that_comes_there(start: Starting, said: Callable[[], list[str]]) -> None:
    async def body(step: Any) -> None:
        log.info("begins")
        for number in range(2):
            await step.run(f"work-{number}", int)
            log.info("worked %d", number)
            await step.sleep(f"nap-{number}", "1h")
        log.info("ends")

    start(body).finish()
    assert said() == ["[r1] begins", "[r1] worked 0", "[r1] worked 1", "[r1] ends"]


def test_nothing_is_said_while_the_run_waits_on(start: Starting, said: Callable[[], list[str]]) -> None:
    async def body(step: Any) -> None:
        log.info("waits")
        await step.wait_for_event("never")
        log.info("not reached")

    driver = start(body)
    for _ in range(3):
        driver.parks()
    assert said() == ["[r1] waits"]


def test_nothing_is_said_while_the_body_is_being_left(start: Starting, said: Callable[[], list[str]]) -> None:
    """What is cleaned up is cleaned up once, by the pass that really leaves the block; and so it is told."""

    async def body(step: Any) -> None:
        try:
            await step.sleep("nap", "1h")
            await step.sleep("nap more", "1h")
        except BaseException:
            log.info("something went wrong")
            raise
        finally:
            log.info("cleans up")

    assert isinstance(start(body).finish(), Finished)
    assert said() == ["[r1] cleans up"]


def test_a_step_says_all_of_its_attempts(start: Starting, said: Callable[[], list[str]]) -> None:
    def flaky() -> None:
        log.info("attempt %d", step.current().attempt)
        if step.current().attempt < 3:
            raise ConnectionError("again")

    async def body(step: Any) -> None:
        log.info("begins")
        await step.options(retry=LATER).run("flaky", flaky)
        await step.sleep("nap", "1h")

    start(body).finish()
    assert said() == ["[r1] begins", *(f"[r1 flaky] attempt {number}" for number in (1, 2, 3))]


def test_what_is_tried_again_as_a_whole_is_said_again_from_where_it_failed(
    start: Starting, said: Callable[[], list[str]]
) -> None:
    tries: list[int] = []

    async def body(step: Any) -> None:
        log.info("begins")
        await step.run("work", int)
        tries.append(1)
        log.info("try %d", len(tries))
        if len(tries) < 3:
            raise RunRetry(ValueError("again"), 1)

    start(body).finish()
    assert said() == ["[r1] begins", "[r1] try 1", "[r1] try 2", "[r1] try 3"]


def test_a_line_carries_its_run_and_step(start: Starting, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tests.shop")

    async def body(step: Any) -> None:
        log.warning("in the body", extra={"order": 7})
        await step.run("work", lambda: log.error("in the step"))
        try:
            raise ValueError("no")
        except ValueError:
            log.exception("an error")

    start(body).finish()
    in_body, in_step, error = (record for record in caplog.records if record.name == "tests.shop")
    told = [(record.run_id, record.step_id, record.task_name) for record in (in_body, in_step, error)]
    assert told == [("r1", None, "t"), ("r1", "work", "t"), ("r1", None, "t")]
    assert in_body.order == 7
    assert [record.levelname for record in (in_body, in_step, error)] == ["WARNING", "ERROR", "ERROR"]
    assert error.exc_info is not None
    assert {record.pathname for record in (in_body, in_step, error)} == {__file__}
    assert (in_body.funcName, error.funcName) == ("body", "body")


def test_signs_in_ids_are_no_formats(store: Store, said: Callable[[], list[str]]) -> None:
    def body() -> None:
        log.info("100%% of %s", "it")
        step.run("50%s", lambda: log.info("no arguments: 5%"))

    driver = Driver(store, body)
    driver.start("r%d")
    driver.finish("r%d")
    assert said() == ["[r%d] 100% of it", "[r%d 50%s] no arguments: 5%"]


def test_it_asks_for_nothing_that_is_not_heard(start: Starting, said: Callable[[], list[str]]) -> None:
    enabled: list[Any] = []

    async def body(step: Any) -> None:
        enabled.append((log.isEnabledFor(logging.DEBUG), log.isEnabledFor(logging.INFO)))
        log.debug("too quiet")
        await step.sleep("nap", "1h")

    start(body).finish()
    assert enabled == [(False, True), (False, False)]
    assert said() == []


def test_elsewhere_it_is_a_plain_logger(said: Callable[[], list[str]]) -> None:
    log.info("plain %s", "words")
    with contextlib.suppress(NotInDurableTask):
        step.run("a", int)
    assert said() == ["plain words"]


def test_steps_of_a_block_say_which_they_are(store: Store, said: Callable[[], list[str]]) -> None:
    def body() -> None:
        with step.parallel() as p:
            for name in "abc":
                p.run(name, log.info, "at work as %s", name)
        log.info("all done")
        step.sleep("nap", "1h")

    driver = Driver(store, body)
    driver.start()
    assert isinstance(driver.one_pass(), Parked)
    driver.let_time_pass()
    driver.finish()
    assert sorted(said()[:3]) == [f"[r1 {name}] at work as {name}" for name in "abc"]
    assert said()[3:] == ["[r1] all done"]
