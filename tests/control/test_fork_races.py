"""A copy of a run that is at work is one of one moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celery_durable import step
from celery_durable.errors import StepNotFound
from celery_durable.model import Run
from celery_durable.store.records import Claim
from celery_durable.store.store import Store
from tests.store.making import new_run

from .operating import LEASE, Clerk, driver_of, emitted, rows_of_run
from .windows import Stage, meetings

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("who", ["pass", "operation"])
def test_continue_as_new_and_a_fork(store: Store, who: str) -> None:
    """A copy is of one beginning: its arguments and its steps belong together."""

    def body(number: int) -> Any:
        first = step.run("first", lambda: number)
        step.run("second", lambda: number)
        if number < 2:
            step.continue_as_new(number + 1)
        return [number, first]

    stage, clerk = Stage(store, t=body), Clerk(store)

    def passing(number: int) -> Callable[[], Any]:
        with store.link() as link:
            if store.start(link, new_run(f"r{number}", arguments="[[1],{}]")):
                found = store.claim(link, f"r{number}", worker="w", lease=LEASE)
                assert isinstance(found, Claim)
                claims[number] = found

        def work() -> Any:
            with store.link() as own:
                driver_of(store, body).execute(own, claims[number], 1)
            return stage.one_pass(f"r{number}")

        return work

    def forking(number: int) -> Callable[[], Any]:
        if who == "operation":
            passing_of[number] = passing(number)
        return lambda: clerk.fork(f"r{number}", "second", task_id=f"f{number}")

    claims: dict[int, Claim] = {}
    passing_of: dict[int, Callable[[], Any]] = {}
    pair = (passing, forking) if who == "pass" else (forking, lambda number: passing_of[number])
    for meeting in meetings(store, *pair):
        fork = meeting.other if who == "pass" else meeting.held
        if isinstance(fork, StepNotFound):
            continue
        assert isinstance(fork, Run), (fork, str(meeting))
        steps = {one.id: one.result for one in clerk.get(fork.id).steps}
        assert steps.get("first", fork.args[0]) == fork.args[0], f"steps of another beginning: {meeting}"


def test_a_fork_takes_no_event_whose_step_it_does_not_have(store: Store) -> None:
    """An event that comes between the copying of the steps and that of the events that they took."""

    def body() -> None:
        with step.parallel() as p:
            p.wait_for_event("event", key="k")
            p.run("value", str)

    clerk = Clerk(store)

    def held(number: int) -> Callable[[], Any]:
        driver = driver_of(store, body)
        driver.start(f"r{number}")
        driver.one_pass(f"r{number}")
        return lambda: clerk.fork(f"r{number}", "value", task_id=f"f{number}")

    def other(number: int) -> Callable[[], Any]:
        def emit() -> Any:
            with store.link() as own:
                return emitted(store, own, "event", "k", f"e{number}")

        return emit

    for meeting in meetings(store, held, other):
        assert isinstance(meeting.held, Run), meeting.held
        left = rows_of_run(store, f"f{meeting.number}")
        assert left["taken"] == left["step"], str(meeting)
        clerk.cancel(f"r{meeting.number}", force=True)
