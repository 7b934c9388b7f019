"""The table of outcomes: each way in which a branch can end, under each policy, beside a sibling of each kind."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from celery_durable import (
    EventTimeout,
    StepTimeout,
    step,
)
from celery_durable.engine.executor import Cancelled, Ended, Finished, Parked
from celery_durable.errors import CallFailed
from celery_durable.store.store import Store
from tests.waiting import wait_until

from .blocks import (
    ONCE,
    check_nothing_dangles,
    child_of,
    end_child,
    fail,
    has_ended,
    outcome,
    statuses,
    time_is_up,
)
from .driving import Driver
from .test_events import dispatch, emit

OVER = {
    # policy       what a failure does   what a success does
    "parallel": ("raises", "goes on"),
    "settle": ("goes on", "goes on"),
    "min_done=1": ("goes on", "is over"),
    "min_done=2": ("raises", "goes on"),
    "max_failed=0": ("raises", "goes on"),
    "max_failed=1": ("goes on", "goes on"),
    "race": ("is over", "is over"),
}
"""A block of two under each policy, when one of them ends."""

CAUSES: dict[str, type[BaseException] | None] = {
    "a function fails": ValueError,
    "a function takes too long": StepTimeout,
    "an event does not come, none": None,
    "an event does not come, fail": EventTimeout,
    "an event does not come, cancel": None,
    "a child fails": ValueError,
    "a child takes too long": StepTimeout,
    "a child is cancelled": CallFailed,
}
"""How the first branch ends, and its error."""

SIBLINGS = ("sleeping", "waiting", "calling", "running", "finished before")

OPTIONS: dict[str, dict[str, Any]] = {
    "settle": {"settle": True}, "min_done=1": {"min_done": 1}, "min_done=2": {"min_done": 2},
    "max_failed=0": {"max_failed": 0}, "max_failed=1": {"max_failed": 1},
}  # fmt: skip


@dataclass
class Cell:
    """One cell of the table, played."""

    store: Store
    cause: str
    policy: str
    sibling: str
    told: list[Any] = field(default_factory=list)
    called: list[str] = field(default_factory=list)
    let_go: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.driver = Driver(self.store, self.body)
        self.driver.start()

    @property
    def local(self) -> bool:
        return self.cause.startswith("a function")

    def body(self) -> str:
        block: Any = step.race() if self.policy == "race" else step.parallel(**OPTIONS.get(self.policy, {}))
        error: Exception | None = None
        try:
            with block:
                asked = {"first": self.ask_first, "sibling": self.ask_sibling}
                order = ["first", "sibling"] if self.sibling != "finished before" else ["sibling", "first"]
                futures = {name: asked[name](block) for name in order}
        except Exception as raised:
            error = raised
        winner = block.winner.id if self.policy == "race" else None
        self.told.append((type(error), winner, {name: outcome(future) for name, future in futures.items()}))
        step.sleep("nap", "1h")
        return "done"

    # ---------------------------------------------------------- the first branch

    def ask_first(self, block: Any) -> Any:
        soon = 0.05 if self.sibling == "running" else "1h"
        if self.cause == "a function fails":
            return block.options(retry=ONCE).run("first", self.fails)
        if self.cause == "a function takes too long":
            seconds = 0.5 if self.sibling == "finished before" else 0.05
            return block.options(retry=ONCE, timeout=seconds).run("first", self.hangs)
        if self.cause.startswith("an event"):
            return block.wait_for_event("first", "never", timeout=soon, on_timeout=self.cause.rpartition(" ")[2])
        return block.options(timeout=soon if self.cause == "a child takes too long" else None).call("first", "child")

    def fails(self) -> None:
        self.called.append("first")
        if self.sibling == "finished before":
            wait_until(lambda: has_ended("sibling"))
        if self.over_before() and self.policy == "race":
            self.let_go.wait(60)
        fail()

    def hangs(self) -> None:
        self.called.append("first")
        self.let_go.wait(60)

    def bring_about(self) -> None:
        if self.cause == "a child fails":
            end_child(self.driver, "first", fail)
        elif self.cause == "a child is cancelled":
            with self.store.link() as link:
                assert self.store.cancel(link, child_of(self.driver, "first"), "a person")
        elif self.sibling != "running":
            time_is_up(self.driver, "first")

    # --------------------------------------------------------------- the sibling

    def ask_sibling(self, block: Any) -> Any:
        if self.sibling == "sleeping":
            return block.sleep("sibling", "2h")
        if self.sibling == "waiting":
            return block.wait_for_event("sibling", "go")
        if self.sibling == "calling":
            return block.call("sibling", "child")
        return block.run("sibling", self.runs)

    def runs(self) -> str:
        self.called.append("sibling")
        if self.sibling == "running" and self.local:
            wait_until(lambda: has_ended("first"))
        elif self.sibling == "running":
            wait_until(lambda: "first" in self.driver.steps())
            self.bring_about()
            wait_until(lambda: self.driver.steps()["first"]["status"] != "waiting")
        if self.sibling == "running" and self.policy == "race":
            self.let_go.wait(60)
        return "its value"

    def answer_sibling(self) -> None:
        if self.sibling == "sleeping":
            time_is_up(self.driver, "sibling")
        elif self.sibling == "waiting":
            dispatch(self.store, emit(self.store, "go"))
        else:
            end_child(self.driver, "sibling", lambda: "its value")

    # ----------------------------------------------------------------------- play

    def play(self) -> Ended:
        ended = self.driver.one_pass()
        if statuses(self.driver).get("first") == "waiting":
            self.bring_about()
            ended = self.driver.one_pass()
        if statuses(self.driver).get("sibling") == "waiting":
            assert self.told == []
            self.answer_sibling()
            ended = self.driver.one_pass()
        if isinstance(ended, Parked):
            self.driver.let_time_pass()
            ended = self.driver.one_pass()
        return ended

    # ------------------------------------------------------------------- expected

    def over_before(self) -> bool:
        """The sibling's end was the end of the block."""
        return self.sibling == "finished before" and self.policy in ("race", "min_done=1")

    def is_cancelled(self) -> bool:
        return self.cause.endswith("cancel") and not self.over_before()

    def effect(self) -> str:
        if self.over_before():
            return "is over"
        return "is over" if self.is_cancelled() else OVER[self.policy][CAUSES[self.cause] is None]

    def of_first(self) -> str | None:
        if not self.over_before():
            return "completed" if self.cause.endswith("none") else "failed"
        if not self.local:
            return "cancelled"
        return None if self.policy == "race" else "failed"

    def of_sibling(self) -> str | None:
        if self.effect() == "goes on" or self.sibling == "finished before":
            return "completed"
        if self.sibling == "running":
            return None if self.policy == "race" else "completed"
        return "cancelled"


@pytest.mark.parametrize("sibling", SIBLINGS)
@pytest.mark.parametrize("policy", OVER)
@pytest.mark.parametrize("cause", CAUSES)
def test_what_becomes_of_a_block(store: Store, cause: str, policy: str, sibling: str) -> None:
    cell = Cell(store, cause, policy, sibling)
    try:
        ended = cell.play()
    finally:
        cell.let_go.set()
        wait_until(lambda: has_ended("sibling") and has_ended("first"))
    found = statuses(cell.driver)
    assert (found.get("first"), found.get("sibling")) == (cell.of_first(), cell.of_sibling())
    check_nothing_dangles(cell.driver)
    assert len(cell.called) == len(set(cell.called))
    if cell.is_cancelled():
        assert isinstance(ended, Cancelled)
        assert cell.told == []
        return
    assert ended == Finished("done")
    error = CAUSES[cause] if cell.effect() == "raises" else type(None)
    winner = ("sibling" if cell.over_before() else "first") if policy == "race" else None
    failure = CAUSES[cause]
    of_first = failure.__name__ if cell.of_first() == "failed" and failure else cell.of_first() or "cancelled"
    told = (error, winner, {"first": of_first, "sibling": cell.of_sibling() or "cancelled"})
    assert cell.told == [told, told]
