"""A branch: one step of a pass, from the moment it is asked for to its answer.

What the body asks for by a verb is a branch, whatever kind of step it is, and there are three ways of bringing
branches to their answers: one at a time (:func:`complete`), the branches of a block together (``together.py``), and
those of the tasks of an event loop (``loop.py``). All of them look at a branch again and again, and do what it needs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.faults import summary
from ..core.replay import Record
from ..core.tries import with_try
from ..errors import DamagedRecord, RunCancelled, RunOverdue, StepCancelled
from ..store.records import Changes, NewRun, NewTurn, NewWait, StepWrite, StoredEvent

if TYPE_CHECKING:
    from .block import Group
    from .passing import Pass

__all__ = [
    "DONE",
    "Act",
    "Attempt",
    "Branch",
    "Done",
    "Opening",
    "Ready",
    "State",
    "Waiting",
    "cancels",
    "complete",
    "openings",
]


_CANCELS = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in (RunCancelled, RunOverdue)}
"""The types of the error at the step at which a run was cancelled."""


class Done:
    """It has its answer."""


DONE = Done()


@dataclass(frozen=True)
class Act:
    """There is something to be done at once, by the one who holds the pass."""

    do: Callable[[], None]


@dataclass(frozen=True)
class Opening:
    """What has to be recorded before it can be waited for."""

    step: StepWrite
    wait: NewWait | None = None
    call: NewRun | None = None
    turn: NewTurn | None = None


@dataclass(frozen=True)
class Waiting:
    """It waits for a time, or for something from outside, or for whichever comes first."""

    until: int | None
    what: str
    opening: Opening | None = None
    outside: bool = False
    """Something from outside may answer it."""


class Attempt(ABC):
    """One attempt at a step's function."""

    @abstractmethod
    def begin(self) -> StepWrite | None:
        """What has to be recorded before it."""

    @abstractmethod
    def call(self) -> None:
        """Call the function, on any thread, and keep what comes of it."""

    @abstractmethod
    def conclude(self) -> StepWrite | None:
        """What is to be recorded of it; raises what carries the pass out of the body."""

    @abstractmethod
    def abandon(self) -> None:
        """Nobody waits for it any more: it can't be stopped, and what comes of it is dropped."""


@dataclass(frozen=True)
class Ready:
    """There is work to be done here, which takes its time."""

    attempt: Attempt


State = Done | Act | Waiting | Ready


class Branch(ABC):
    """One step that was asked for."""

    kind: str
    works_here = False
    """It calls a function of this process."""

    def __init__(self, run: Pass, id: str, given: str, at_most_once: bool = False) -> None:
        self.run = run
        self.id = id
        self.given = given
        self.at_most_once = at_most_once
        self.block: Group | None = None
        """The block that it is a branch of."""

    @abstractmethod
    def look(self) -> State:
        """What it needs now."""

    @abstractmethod
    def value(self) -> Any:
        """The recorded result as the body gets it."""

    def ask(self) -> Any:
        """What the history says of it."""
        return self.run.decide(self.id, self.kind, self.given, at_most_once=self.at_most_once)

    def is_done(self) -> bool:
        """Whether it has its answer. Asks without consequences."""
        record = self.run.history.get(self.id)
        if record is None or record.kind != self.kind:
            return False
        if record.status == "waiting" and self.kind == "sleep":
            return record.wake_at is not None and record.wake_at <= self.run.now()
        return record.status in ("completed", "failed", "cancelled")

    def answer(self) -> Any:
        """What the body gets: a value, or an error is raised."""
        record = self.run.history[self.id]
        if record.status == "cancelled":
            raise self.cancelled_error()
        try:
            if record.status != "failed":
                return self.value()
            cancelled, error = self.cancels(), self.error()
        except DamagedRecord as damaged:
            self.run.leave_damaged(damaged, "step", self.id)
        if cancelled is not None:
            self.run.cancel(cancelled)
        raise error

    def cancels(self) -> RunCancelled | None:
        """How the run is cancelled at this step, if it is."""
        record = self.run.history.get(self.id)
        return None if record is None else cancels(record)

    def cancelled_error(self) -> StepCancelled:
        """What the body gets that asks for the answer of a step which was given up."""
        return StepCancelled(
            f"step {self.id!r} of run {self.run.run_id} was cancelled: a sibling failed, or its block was over without "
            "it. Ask future.cancelled() before future.result(), or use settle=True"
        )

    def error(self) -> BaseException:
        """The recorded error as the body gets it."""
        return self.run.error_of(self.id)

    def refuse(self) -> None:  # noqa: B027 - there is nothing to give back, but of a lock
        """It has got an answer from outside that nobody waits for any more."""

    def take(self, event: StoredEvent) -> None:
        """An event was there when it was about to be waited for."""
        raise AssertionError(f"step {self.id!r} waits for no event")

    def new_row(self, **values: Any) -> StepWrite:
        """A row for it, or the one that it has, to be changed."""
        block = None if self.block is None else self.block.path()
        return self.run.new_step(self.id, self.kind, self.given, block=block, tries=self._tries(), **values)

    def _tries(self) -> str | None:
        """Its failed attempts so far. Where the run is retried and it has all its attempts again, also the last one."""
        record = self.run.history.get(self.id)
        if record is None:
            return None
        if record.status == "waiting" and not record.attempts and record.error is not None:
            return with_try(record.tries, 1, record.started_at, None, record.error)
        return record.tries

    def cancelled_row(self) -> StepWrite | None:
        """Its row once it is cancelled, where it has one."""
        record = self.run.history.get(self.id)
        if record is None or record.status not in ("waiting", "started"):
            return None
        return self.given_up_row()

    def given_up_row(self) -> StepWrite:
        """Its row once it is cancelled, though nothing of it may have been recorded before."""
        return self._row(status="cancelled")

    def stopped_row(self, error: str) -> StepWrite:
        """Its row where the run is cancelled at this point."""
        return self._row(status="failed", error=error)

    def _row(self, **values: Any) -> StepWrite:
        run, record = self.run, self.run.history.get(self.id)
        now = run.now()
        row = self.new_row(
            attempts=record.attempts if record else 0, started_at=(record and record.started_at) or now,
            finished_at=now, seen=run.next_place(), heartbeat=record.heartbeat if record else None, **values,
        )  # fmt: skip
        return row._replace(child=record.child if record else None)


def cancels(record: Record) -> RunCancelled | None:
    """How the run was cancelled at this step, if it was."""
    if record.status != "failed" or record.error is None:
        return None
    told = summary(record.error)
    kind = _CANCELS.get(told["type"])
    return None if kind is None else kind(told["message"])


def openings(waiting: Sequence[Waiting]) -> Changes:
    """What has to be recorded before all of these can be waited for."""
    new = [state.opening for state in waiting if state.opening is not None]
    return Changes(
        steps=tuple(opening.step for opening in new),
        waits=tuple((opening.step.id, opening.wait) for opening in new if opening.wait is not None),
        calls=tuple(opening.call for opening in new if opening.call is not None),
        turns=tuple((opening.step.id, opening.turn) for opening in new if opening.turn is not None),
    )


def complete(run: Pass, branch: Branch) -> Any:
    """Bring one branch to its answer, or leave the body until there is one."""
    while True:
        try:
            state = branch.look()
        except DamagedRecord as damaged:
            run.leave_damaged(damaged, "step", branch.id)
        if isinstance(state, Done):
            return branch.answer()
        if run.check_cancelling(branch):
            continue
        if isinstance(state, Act):
            with run.reading("step", branch.id):
                state.do()
        elif isinstance(state, Waiting):
            run.park_for([(branch, state)])
        else:
            run.check_stopping()
            if _attempt(run, state.attempt):
                return branch.answer()


def _attempt(run: Pass, attempt: Attempt) -> bool:
    """Whether it has brought the answer: else there may be another one at once."""
    started = attempt.begin()
    if started is not None:
        run.write(started)
    attempt.call()
    row = attempt.conclude()
    if row is None:
        return True
    if row.status == "waiting" and row.wake_at is not None and row.wake_at > run.now():
        run.park_with(row, f"attempt {row.attempts + 1} of step {row.id!r}, after {run.reason(row.error or '{}')}")
    run.write(row)
    return row.status != "waiting"
