"""What ``get_logger`` was told, kept with the run (``durable_store_logs``): each line once, whatever is done again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_durable import LogRecord, get_logger, step
from celery_durable.client.reading import Reader
from celery_durable.engine.control import RunRetry
from celery_durable.engine.executor import Finished
from celery_durable.engine.settings import Settings
from celery_durable.store.store import Store
from tests.kill.killing import Commits, die, in_child, lose

from .controls import Fed, Starting, cancel, recover
from .driving import LEASE, Driver
from .test_rollback import LATER

KEPT = Settings(lease=LEASE, store_logs=True)

log = get_logger("tests.kept")


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tests.kept")


def kept(store: Store, run_id: str = "r1") -> tuple[LogRecord, ...]:
    return Reader(lambda: store, lambda value: value).logs(run_id)


def lines(store: Store, run_id: str = "r1") -> list[str]:
    return [line.message for line in kept(store, run_id)]


def test_lines_are_kept_in_their_order_though_passes_repeat(start: Starting) -> None:
    async def body(step: Any) -> None:
        log.info("begins")
        for number in range(3):
            await step.run(f"work-{number}", log.warning, "at work on %d", number)
            log.info("worked %d", number)
            log.info("and rests")
            await step.sleep(f"nap-{number}", "1h")
        log.error("ends")

    driver = start(body, settings=KEPT)
    assert isinstance(driver.finish(), Finished)
    expected = ["begins"]
    for number in range(3):
        expected += [f"at work on {number}", f"worked {number}", "and rests"]
    assert lines(driver.store) == [*expected, "ends"]
    found = kept(driver.store)
    assert [line.level for line in found] == [20, *([30, 20, 20] * 3), 40]
    assert [line.step_id for line in found[:4]] == [None, "work-0", None, None]
    assert {line.logger for line in found} == {"tests.kept"}
    assert [line.at for line in found] == sorted(line.at for line in found)


def test_nothing_is_kept_unless_it_is_asked_for(start: Starting) -> None:
    async def body(step: Any) -> None:
        log.info("said")

    driver = start(body)
    driver.finish()
    assert kept(driver.store) == ()


def test_what_nobody_hears_is_not_kept(start: Starting) -> None:
    async def body(step: Any) -> None:
        log.debug("too quiet")
        log.info("loud enough")

    driver = start(body, settings=KEPT)
    driver.finish()
    assert lines(driver.store) == ["loud enough"]


def test_the_same_words_in_two_places_are_two_lines(start: Starting) -> None:
    async def body(step: Any) -> None:
        for number in range(3):
            log.info("again")
            log.info("again")
            await step.sleep(f"nap-{number}", "1h")

    driver = start(body, settings=KEPT)
    driver.finish()
    assert lines(driver.store) == ["again"] * 6


@pytest.mark.parametrize("end", ["fails", "is cancelled", "can not be stored"])
def test_the_last_lines_are_kept_however_the_run_ends(start: Starting, end: str) -> None:
    async def body(step: Any) -> Any:
        try:
            if end == "is cancelled":
                await step.wait_for_event("never")
        finally:
            await step.run("tidy", int)
            log.info("the last words")
        if end == "fails":
            raise LookupError("no")
        return object()

    driver = start(body, settings=KEPT)
    if end == "is cancelled":
        driver.parks()
        cancel(driver)
    driver.one_pass()
    assert driver.run()["status"] == ("cancelled" if end == "is cancelled" else "failed")
    assert lines(driver.store) == ["the last words"]


def test_undos_are_steps_of_the_run_also_for_its_log(start: Starting, caplog: pytest.LogCaptureFixture) -> None:
    async def body(step: Any) -> None:
        await step.on_rollback("undo", log.info, "undoes")
        raise LookupError("no")

    driver = start(body, settings=KEPT)
    driver.finish()
    assert [record.getMessage() for record in caplog.records if record.name == "tests.kept"] == ["[r1 undo] undoes"]
    assert [(line.step_id, line.message) for line in kept(driver.store)] == [("undo", "undoes")]


def test_every_attempt_of_a_step_is_kept(start: Starting) -> None:
    def flaky() -> None:
        log.info("attempt %d", step.current().attempt)
        if step.current().attempt < 3:
            raise ConnectionError("again")

    async def body(step: Any) -> None:
        await step.options(retry=LATER).run("flaky", flaky)
        log.info("done")
        await step.sleep("nap", "1h")

    driver = start(body, settings=KEPT)
    driver.finish()
    assert lines(driver.store) == ["attempt 1", "attempt 2", "attempt 3", "done"]


def test_a_line_behind_a_step_that_logs_is_kept_once_where_the_run_is_tried_again(start: Starting) -> None:
    """Nothing is recorded behind the line, so the next pass says it again, in the same place."""
    tries: list[int] = []

    async def body(step: Any) -> None:
        await step.run("work", log.info, "at work")
        log.info("worked")
        tries.append(1)
        if len(tries) < 3:
            raise RunRetry(ValueError("again"), 1)

    driver = start(body, settings=KEPT)
    driver.finish()
    assert lines(driver.store) == ["at work", "worked"]


def test_each_beginning_has_its_own_lines(start: Starting) -> None:
    async def body(step: Any, number: int = 0) -> None:
        log.info("begins")
        if number < 2:
            await step.continue_as_new(number + 1)
        log.info("ends")

    driver = start(body, settings=KEPT)
    for _ in range(2):
        driver.parks()
    driver.one_pass()
    assert lines(driver.store) == ["begins", "begins", "begins", "ends"]


def test_lines_of_a_block_are_all_there(store: Store) -> None:
    def work(name: str) -> None:
        for number in range(5):
            log.info("%s %d", name, number)

    def body() -> None:
        with step.parallel() as p:
            for name in "abc":
                p.run(name, work, name)
        log.info("all done")
        step.sleep("nap", "1h")

    driver = Driver(store, body, settings=KEPT)
    driver.start()
    driver.finish()
    found = lines(store)
    assert sorted(found[:-1]) == [f"{name} {number}" for name in "abc" for number in range(5)]
    assert found[-1] == "all done"
    for name in "abc":
        assert [line.message for line in kept(store) if line.step_id == name] == [f"{name} {n}" for n in range(5)]


def test_secrets_and_long_lines_are_cut(start: Starting) -> None:
    async def body(step: Any) -> None:
        log.info("connects with password=%s", "hunter2hunter2")
        log.info("x" * 5000)

    driver = start(body, settings=Settings(lease=LEASE, store_logs=True, max_payload=8000))
    driver.finish()
    secret, long = lines(driver.store)
    assert "hunter2" not in secret
    assert secret.startswith("connects with password")
    assert 100 < len(long) <= 1000


def test_arguments_that_do_not_fit_do_no_harm(start: Starting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)

    async def body(step: Any) -> str:
        log.info("one %s, two %s", "only one")
        log.info("percent: 100%")
        return "done"

    driver = start(body, settings=KEPT)
    assert driver.value() == "done"
    assert lines(driver.store) == ["one %s, two %s", "percent: 100%"]


# -- Workers that die


def talkative(fail: bool = False) -> Callable[[], str]:
    def body() -> str:
        log.info("begins")
        step.run("work", log.info, "at work")
        log.info("worked")
        step.sleep("nap", "1h")
        log.info("slept")
        step.state.increment("count")
        log.info("counted")
        if fail:
            step.on_rollback("undo", int)
            log.info("fails")
            raise LookupError("no")
        log.info("ends")
        return "done"

    return body


def to_its_end(driver: Fed, run_id: str) -> Any:
    for _ in range(6):
        run = driver.run(run_id)
        if run["status"] == "running":
            recover(driver, run_id)
        elif run["status"] == "suspended":
            driver.let_time_pass(run_id)
        elif run["status"] in ("completed", "failed"):
            return
        driver.one_pass(run_id)


WORDS = ["begins", "worked", "slept", "counted"]


def killed_everywhere(store: Store, when: str, fail: bool) -> Iterator[list[str]]:
    """What is kept of runs each of which is killed at another one of its commits, and goes on."""
    driver = Fed(store, talkative(fail), settings=KEPT)
    for count in range(1, 60):
        run_id = f"{when} {count}"
        driver.start(run_id)

        def work(run_id: str = run_id, count: int = count) -> None:
            with Commits(store.engine) as commits:
                getattr(commits, when)[count] = die
                to_its_end(driver, run_id)

        killed = in_child(work)
        to_its_end(driver, run_id)
        yield lines(store, run_id)
        if not killed:
            assert count > 10  # so many commits there are
            return
    raise AssertionError("there is no end of commits")


@pytest.mark.parametrize("fail", [False, True], ids=["succeeds", "fails"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_no_line_is_lost_by_a_kill_at_any_commit(store: Store, when: str, fail: bool) -> None:
    for found in killed_everywhere(store, when, fail):
        assert {*WORDS, "at work", "fails" if fail else "ends"} == set(found)


@pytest.mark.parametrize("fail", [False, True], ids=["succeeds", "fails"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_no_line_of_the_body_is_doubled_by_a_kill_at_any_commit(store: Store, when: str, fail: bool) -> None:
    """A step that is done again says what it says again."""
    for found in killed_everywhere(store, when, fail):
        assert {name: found.count(name) for name in found if name != "at work"} == dict.fromkeys(
            (name for name in found if name != "at work"), 1
        )
        assert found.count("at work") <= 2


@pytest.mark.parametrize("when", ["before", "after"])
def test_no_line_is_lost_or_doubled_where_a_connection_breaks(store: Store, when: str) -> None:
    driver = Fed(store, talkative(), settings=KEPT)
    driver.start("plain")
    with Commits(store.engine) as commits:
        to_its_end(driver, "plain")
    expected = ["begins", "at work", *WORDS[1:], "ends"]
    assert lines(store, "plain") == expected
    for count in range(1, commits.commits + 1):
        run_id = f"{when} {count}"
        driver.start(run_id)
        with Commits(store.engine) as hooks:
            getattr(hooks, when)[count] = lose
            to_its_end(driver, run_id)
        assert lines(store, run_id) == expected, run_id
