"""A lock on each database, with many who want it at the same moment, and with connections that break."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from celery_durable import step
from celery_durable.engine.executor import Cancelled, Finished, Parked
from celery_durable.store.store import Store
from tests.kill.killing import Commits, lose

from .controls import Fed, cancel
from .driving import Driver
from .test_lock import time_is_up, turns

# -- Connections that break


def test_a_write_whose_answer_is_lost_takes_and_gives_the_lock_once(any_store: Store) -> None:
    def body() -> str:
        with step.lock("mine", "account-7"):
            step.sleep("nap", "1h")
        return "done"

    plain = Fed(any_store, body)
    plain.start("plain")
    with Commits(any_store.engine) as commits:
        assert plain.value("plain") == "done"
    assert commits.commits >= 6  # claim, lock, nap; claim, release, finish
    for when in ("before", "after"):
        for count in range(1, commits.commits + 1):
            run_id = f"{when} {count}"
            driver = Fed(any_store, body)
            driver.start(run_id)
            with Commits(any_store.engine) as lossy:
                getattr(lossy, when)[count] = lose
                assert driver.value(run_id) == "done", run_id
            assert turns(any_store) == []


def test_getting_into_line_when_the_answer_is_lost(any_store: Store) -> None:
    log: list[str] = []

    def body() -> str:
        with step.lock("mine", "account-7"):
            log.append("in")
            step.sleep("nap", "1h")
        return "done"

    first = Fed(any_store, body)
    for when in ("before", "after"):
        for count in range(1, 5):
            run_id = f"{when} {count}"
            first.start(f"first {run_id}")
            first.parks(f"first {run_id}")
            second = Fed(any_store, body)
            second.start(run_id)
            with Commits(any_store.engine) as lossy:
                getattr(lossy, when)[count] = lose
                assert second.one_pass(run_id) == Parked("the lock 'account-7'"), run_id
            assert [who for who, _, _ in turns(any_store)] == [f"first {run_id}", run_id]
            first.let_time_pass(f"first {run_id}")
            first.one_pass(f"first {run_id}")
            assert first.let_in() == [run_id]
            assert second.value(run_id) == "done"
            assert turns(any_store) == []


# -- Many at once

RUNS, WORKERS = 20, 6


class Block:
    """A block that only one may be in."""

    def __init__(self) -> None:
        self.inside: str | None = None
        self.clashes: list[tuple[str | None, str]] = []
        self.count = 0

    def enter(self) -> int:
        run_id = step.current().run_id
        if self.inside is not None:
            self.clashes.append((self.inside, run_id))
        self.inside = run_id
        found = self.count
        time.sleep(0.003)
        self.count = found + 1
        return found

    def leave(self) -> None:
        if self.inside != step.current().run_id:
            self.clashes.append((self.inside, step.current().run_id))
        self.inside = None


@pytest.mark.parametrize("sleeps", [False, True], ids=["at work", "asleep"])
def test_two_are_never_in_the_block_at_once(any_store: Store, sleeps: bool) -> None:
    block = Block()

    def body() -> int:
        with step.lock("mine", "shared"):
            found = step.run("enter", block.enter)
            if sleeps:
                step.sleep("nap", 0.005)
            step.run("leave", block.leave)
        return found

    values = Crew(any_store, body).work([f"r{number:02}" for number in range(RUNS)])
    assert block.clashes == []
    assert sorted(values) == list(range(RUNS))
    assert block.count == RUNS
    assert turns(any_store) == []


class Crew:
    """Workers, each a thread, that take messages as they come."""

    def __init__(self, store: Store, body: Callable[[], Any]) -> None:
        self.store = store
        self.body = body
        self.messages: queue.Queue[str | None] = queue.Queue()
        self.values: dict[str, Any] = {}

    def work(self, run_ids: list[str]) -> list[Any]:
        for run_id in run_ids:
            Driver(self.store, self.body).start(run_id)
            self.messages.put(run_id)
        with ThreadPoolExecutor(WORKERS) as pool:
            workers = [pool.submit(self.serve, len(run_ids)) for _ in range(WORKERS)]
            for worker in workers:
                worker.result(120)
        return [self.values[run_id] for run_id in run_ids]

    def serve(self, most: int) -> None:
        try:
            while (run_id := self.messages.get(timeout=60)) is not None:
                driver = Fed(self.store, self.body)
                ended = driver.one_pass(run_id)
                if isinstance(ended, Finished):
                    self.values[run_id] = ended.value
                elif isinstance(ended, Parked) and "lock" not in ended.waiting_on:
                    driver.let_time_pass(run_id)
                    self.messages.put(run_id)
                else:
                    assert isinstance(ended, Parked), ended
                for woken in driver.let_in():
                    self.messages.put(woken)
                if len(self.values) == most:
                    break
        finally:
            self.messages.put(None)


def test_many_who_hand_a_lock_on_at_the_same_moment_give_it_to_one(any_store: Store) -> None:
    def body() -> None:
        with step.lock("mine", "account-7", ttl="1h"):
            step.sleep("nap", "1h")

    drivers = [Fed(any_store, body) for _ in range(4)]
    for number, driver in enumerate(drivers):
        driver.start(f"r{number}")
        driver.parks(f"r{number}")
    meeting = threading.Barrier(WORKERS)

    def hand_on(_: int) -> str | None:
        with any_store.link() as link:
            any_store.now(link)
            meeting.wait(30)
            return any_store.next_turn(link, "account-7")

    for number in range(1, 4):
        time_is_up(any_store, f"r{number - 1}")
        with ThreadPoolExecutor(WORKERS) as pool:
            told = [run_id for run_id in pool.map(hand_on, range(WORKERS)) if run_id is not None]
        assert told == [f"r{number}"]
        assert [who for who, _, what in turns(any_store) if what == "has it"] == [f"r{number}"]


@pytest.mark.parametrize("force", [False, True], ids=["in its body", "by force"])
def test_a_run_in_line_that_is_cancelled_while_the_lock_is_handed_on(any_store: Store, force: bool) -> None:
    """Whoever is first, the last in the line has the lock in the end: it is not left to one that has gone."""

    def body() -> None:
        with step.lock("mine", "account-7"):
            step.sleep("nap", "1h")

    meeting = threading.Barrier(2)

    def gives_back(driver: Fed, run_id: str) -> None:
        driver.let_time_pass(run_id)
        meeting.wait(30)
        driver.one_pass(run_id)
        driver.let_in()

    def goes_away(driver: Fed, run_id: str) -> None:
        meeting.wait(30)
        cancel(driver, run_id, force=force)
        if not force:
            assert isinstance(driver.one_pass(run_id), Cancelled)
        driver.let_in()

    with ThreadPoolExecutor(2) as pool:
        for number in range(20):
            drivers = {name: Fed(any_store, body) for name in (f"a{number}", f"b{number}", f"c{number}")}
            for name, driver in drivers.items():
                driver.start(name)
                driver.parks(name)
            first, second, last = drivers
            works = [
                pool.submit(gives_back, drivers[first], first),
                pool.submit(goes_away, drivers[second], second),
            ]
            for work in works:
                work.result(60)
            assert turns(any_store) == [(last, "account-7", "has it")]
            assert drivers[last].run(last)["due_at"] is not None
            cancel(drivers[last], last, force=True)
