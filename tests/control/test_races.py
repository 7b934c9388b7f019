"""Each operation against a running pass: one is held before each of its statements in turn, the other done meanwhile.

Whatever the moment: one of the two orders is what has happened, what was recorded stays, and no run is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_durable import step
from celery_durable.core.codec import decode
from celery_durable.engine.executor import Cancelled, Ended, Failed, Finished, Gone, Parked
from celery_durable.errors import RunNotFound, StepNotFound, WrongStatus
from celery_durable.model import Run
from celery_durable.store.records import Fence
from celery_durable.store.store import Store

from .operating import Clerk, begin, driver_of, emitted, rows_of_run
from .windows import Meeting, Stage, meetings

pytestmark = pytest.mark.slow

BOTH = pytest.mark.parametrize("who", ["pass", "operation"])
"""Which of the two is held."""


class Calls:
    """How often a step's function was called."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, name: str) -> str:
        self.seen.append(name)
        return f"{name} {self.seen.count(name)}"


def parking(calls: Calls) -> Callable[[str], Any]:
    """A body that parks for an event, and has a lock before."""

    def body(key: str) -> Any:
        first = step.run("first", calls, f"{key}-first")
        step.set_progress(1, 2)
        with step.lock("lock", f"lock-{key}"):
            second = step.run("second", calls, f"{key}-second")
        step.state.increment("count")
        event = step.wait_for_event("event", key=key)
        return [first, second, event.id if event else None]

    return body


class Race:
    """Runs r1, r2, ... of one body, each of which meets an operation."""

    def __init__(self, store: Store, body: Callable[[str], Any] | None = None) -> None:
        self.store = store
        self.clerk = Clerk(store)
        self.calls = Calls()
        self.stage = Stage(store, t=body or parking(self.calls))
        self.recorded: dict[str, Any] = {}

    def meet(self, who: str, operation: Callable[[str], Any]) -> Iterator[tuple[str, Meeting, Any, Any]]:
        """Each meeting, with what came of the pass and of the operation."""

        def started(number: int) -> str:
            with self.store.link() as link:
                begin(self.store, link, f"r{number}", args=(f"r{number}",))
            return f"r{number}"

        def passing(number: int) -> Callable[[], Any]:
            run_id = started(number) if who == "pass" else f"r{number}"
            return lambda: self.stage.one_pass(run_id)

        def operating(number: int) -> Callable[[], Any]:
            run_id = started(number) if who == "operation" else f"r{number}"
            return lambda: operation(run_id)

        pair = (passing, operating) if who == "pass" else (operating, passing)
        for meeting in meetings(self.store, *pair):
            found = (meeting.held, meeting.other) if who == "pass" else (meeting.other, meeting.held)
            assert found[0] is None or isinstance(found[0], Ended), (found[0], str(meeting))
            yield f"r{meeting.number}", meeting, *found

    def keep(self, run_id: str) -> None:
        """Remember what is recorded."""
        with self.store.link() as link:
            found = self.stage.look(link, run_id)
        if found is not None:
            self.recorded |= {
                (run_id, name): row["result"] for name, row in found[1].items() if row["status"] == "completed"
            }

    def settle(self, run_id: str) -> str | None:
        """Let everything come to its end; the run's status then."""
        self.keep(run_id)
        self.stage.settle()
        with self.store.link() as link:
            if run_id not in self.emitted:
                emitted(self.store, link, "event", run_id)
            self.emitted.add(run_id)
        self.stage.settle()
        with self.store.link() as link:
            found = self.stage.look(link, run_id)
        if found is None:
            return None
        now = {(run_id, name): row["result"] for name, row in found[1].items()}
        kept = {place: result for place, result in self.recorded.items() if place[0] == run_id}
        assert now | kept == now, "what was recorded has changed"
        if found[0]["status"] == "completed":
            assert decode(found[0]["result"])[:2] == [
                decode(str(now[run_id, "first"])), decode(str(now[run_id, "second"])),
            ]  # fmt: skip
        left = rows_of_run(self.store, run_id)
        if found[0]["status"] != "paused":
            assert (left["turn"], left["wait"]) == (0, 0), (
                f"something is left behind of a run that is {found[0]['status']}"
            )
        return str(found[0]["status"])

    emitted: set[str]

    def __new__(cls, *args: Any) -> Race:
        made = super().__new__(cls)
        made.emitted = set()
        return made


def refused(outcome: Any) -> bool:
    if isinstance(outcome, WrongStatus):
        return True
    assert isinstance(outcome, Run), outcome
    return False


@BOTH
@pytest.mark.parametrize("force", [False, True], ids=["asked", "forced"])
def test_cancel(store: Store, who: str, force: bool) -> None:
    race = Race(store)
    for run_id, meeting, ended, outcome in race.meet(who, lambda run_id: race.clerk.cancel(run_id, force=force)):
        assert not refused(outcome), str(meeting)  # it never ends here
        assert isinstance(ended, (Gone, Parked, Cancelled)) or ended is None
        assert race.settle(run_id) == "cancelled", str(meeting)
        assert [deed.action for deed in race.clerk.get(run_id).audit] == ["cancel"]


@BOTH
@pytest.mark.parametrize("force", [False, True], ids=["asked", "forced"])
def test_cancel_of_a_run_that_finishes(store: Store, who: str, force: bool) -> None:
    race = Race(store, lambda key: [step.run("first", str, key), step.run("second", str, key)])
    for run_id, meeting, ended, outcome in race.meet(who, lambda run_id: race.clerk.cancel(run_id, force=force)):
        ended_first, status = refused(outcome), race.settle(run_id)
        assert isinstance(ended, Finished) == ended_first
        assert status == ("completed" if ended_first else "cancelled"), str(meeting)


@BOTH
def test_pause_and_resume(store: Store, who: str) -> None:
    race = Race(store)
    for run_id, meeting, _, outcome in race.meet(who, race.clerk.pause):
        assert not refused(outcome), str(meeting)
        assert race.settle(run_id) == "paused", str(meeting)
        assert race.clerk.resume(run_id).status in ("pending", "suspended")
        assert race.settle(run_id) == "completed", str(meeting)


@BOTH
def test_resume_of_a_run_that_was_paused_in_its_pass(store: Store, who: str) -> None:
    race = Race(store)

    def both(run_id: str) -> Any:
        race.clerk.pause(run_id)
        return race.clerk.resume(run_id)

    for run_id, meeting, _, outcome in race.meet(who, both):
        assert not refused(outcome), str(meeting)
        assert race.settle(run_id) == "completed", str(meeting)
        assert [deed.action for deed in race.clerk.get(run_id).audit] == ["pause", "resume"]


@BOTH
def test_retry_of_a_run_that_fails(store: Store, who: str) -> None:
    def body(key: str) -> Any:
        first = step.run("first", str, key)
        if race.failing:
            raise ValueError(key)
        return [first, step.run("second", str, key)]

    race: Any = Race(store, body)
    race.failing = True
    for run_id, meeting, ended, outcome in race.meet(who, race.clerk.retry):
        assert not refused(outcome), str(meeting)  # it goes on anyway, or again
        assert isinstance(ended, Failed)
        race.failing = False
        retried = [deed.action for deed in race.clerk.get(run_id).audit] == ["retry"]
        assert race.settle(run_id) == ("completed" if retried else "failed"), str(meeting)
        race.failing = True


@BOTH
def test_fork(store: Store, who: str) -> None:
    race = Race(store)

    def fork(run_id: str) -> Run:
        return race.clerk.fork(run_id, "second", task_id=f"{run_id}-fork")

    for run_id, meeting, _, outcome in race.meet(who, fork):
        assert race.settle(run_id) == "completed", str(meeting)
        if isinstance(outcome, StepNotFound):
            continue
        assert isinstance(outcome, Run), (outcome, str(meeting))
        original, fork_of = race.clerk.get(run_id), race.clerk.get(outcome.id)
        assert fork_of.status == "completed"
        assert fork_of.result[0] == original.result[0] == f"{run_id}-first 1"
        assert fork_of.result[1] == f"{run_id}-second 2", str(meeting)


@BOTH
def test_replay(store: Store, who: str) -> None:
    race = Race(store)
    for run_id, meeting, _, outcome in race.meet(who, lambda run_id: race.clerk.replay(run_id, task_id=f"{run_id}-re")):
        assert race.settle(run_id) == "completed", str(meeting)
        assert isinstance(outcome, Run)
        assert race.clerk.get(f"{run_id}-re").result[:2] == [f"{run_id}-first 2", f"{run_id}-second 2"]


@BOTH
def test_prune(store: Store, who: str) -> None:
    race = Race(store, lambda key: [step.run("first", str, key), step.run("second", str, key)])

    def prune(_: str) -> int:
        with store.link() as link:
            return store.forget_runs(link, older_than=0)

    for run_id, meeting, ended, outcome in race.meet(who, prune):
        assert isinstance(ended, Finished)
        left = rows_of_run(store, run_id)
        assert outcome in (0, 1)
        if outcome:
            assert not any(left.values()), str(meeting)
            with pytest.raises(RunNotFound):
                race.clerk.get(run_id)
        else:
            assert (left["run"], left["input"], left["step"]) == (1, 1, 2), str(meeting)
            assert race.settle(run_id) == "completed"
            assert race.clerk.prune(0) == 1


@BOTH
def test_a_worker_that_is_taken_for_dead(store: Store, who: str) -> None:
    """The sweeper takes the run away, and another worker goes on at once."""
    race = Race(store)

    def take_over(run_id: str) -> Any:
        with store.link() as link:
            found = store.get(link, run_id)
            assert found is not None
            store.recover(link, Fence(run_id, found[0]["token"]))
        return race.stage.one_pass(run_id)

    for run_id, meeting, _, outcome in race.meet(who, take_over):
        assert outcome is None or isinstance(outcome, (Parked, Gone)), (outcome, str(meeting))
        assert race.settle(run_id) == "completed", str(meeting)


@BOTH
def test_the_same_message_twice(store: Store, who: str) -> None:
    race = Race(store)
    for run_id, meeting, ended, outcome in race.meet(who, race.stage.one_pass):
        assert [ended, outcome].count(None) == 1 or isinstance(ended or outcome, Parked), str(meeting)
        assert race.settle(run_id) == "completed", str(meeting)
        # No step's function was called twice: nothing was taken away from anybody.
        assert race.calls.seen.count(f"{run_id}-first") == race.calls.seen.count(f"{run_id}-second") == 1


@BOTH
def test_an_event_for_it(store: Store, who: str) -> None:
    race = Race(store)

    def emit(run_id: str) -> Any:
        race.emitted.add(run_id)
        with store.link() as link:
            return emitted(store, link, "event", run_id)

    for run_id, meeting, _, outcome in race.meet(who, emit):
        assert outcome in ([], [run_id]), str(meeting)
        assert race.settle(run_id) == "completed", str(meeting)


@BOTH
def test_state_and_progress_of_two_runs(store: Store, who: str) -> None:
    """A sum to which two runs add at the same moment."""
    race = Race(store)
    other = driver_of(store, lambda: step.state.increment("count"))

    def count(run_id: str) -> Any:
        other.start(f"{run_id}-other")
        return other.one_pass(f"{run_id}-other")

    for run_id, meeting, _, outcome in race.meet(who, count):
        assert isinstance(outcome, Finished), str(meeting)
        assert race.settle(run_id) == "completed"
        assert race.clerk.state("t") == {"count": 2 * meeting.number}, str(meeting)
        progress = race.clerk.get(run_id).progress
        assert progress is not None
        assert (progress.value, progress.total) == (1, 2)


@BOTH
def test_one_lock_of_two_runs(store: Store, who: str) -> None:
    """Only one of them is ever inside; the other parks, and has it after."""
    race = Race(store)
    inside: list[str] = []

    def body(key: str) -> Any:
        with step.lock("lock", f"lock-{key}"):
            assert not inside
            return step.run("inside", race.calls, key)

    race.stage.drivers["other"] = driver_of(store, body)

    def contend(run_id: str) -> Any:
        with store.link() as link:
            begin(store, link, f"{run_id}-other", task="other", args=(run_id,))
        return race.stage.one_pass(f"{run_id}-other", "other")

    for run_id, meeting, _, outcome in race.meet(who, contend):
        assert isinstance(outcome, (Finished, Parked)), (outcome, str(meeting))
        assert race.settle(run_id) == "completed", str(meeting)
        assert race.clerk.get(f"{run_id}-other").status == "completed", str(meeting)
