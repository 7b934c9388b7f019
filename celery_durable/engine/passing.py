"""One pass of a run: what happens between its claim and the moment the body is left.

The verbs (``verbs.py``) turn
what the body asks for into calls of the methods here; ``core.replay.decide`` says what each comes to.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from ..core.duration import SECOND, as_datetime
from ..core.faults import write_error
from ..core.ids import check_step_id, fingerprint, numbered
from ..core.replay import Ask, Decision, Interrupted, Mismatch, Record, Replay, decide
from ..core.retry import Retry
from ..errors import (
    DuplicateStep,
    HistoryMismatch,
    NotInDurableTask,
    RunCancelled,
    StepInterrupted,
    TooManySteps,
)
from ..store.link import Link
from ..store.records import Aftermath, Changes, Claim, Overtaken, StepWrite
from ..store.store import Store
from .branch import Branch, Waiting, openings
from .control import Suspended
from .recorder import Recorder
from .settings import Settings
from .where import Place, caller
from .work import StepContext

if TYPE_CHECKING:
    from .calls import Target
    from .tasks import Tasks

__all__ = ["GRACE", "Dispatcher", "Pass", "current_branch", "current_pass", "current_step", "pass_of"]

logger = logging.getLogger("celery_durable")

GRACE = 15 * SECOND
"""How long a message that was sent may take before the sweeper asks whether it was lost."""

current_pass: ContextVar[Pass | None] = ContextVar("celery_durable_pass", default=None)
current_branch: ContextVar[str] = ContextVar("celery_durable_branch", default="")
"""What the ids of steps begin with that are numbered within a branch of their own."""
current_step: ContextVar[StepContext | None] = ContextVar("celery_durable_step", default=None)


def pass_of(verb: str) -> Pass:
    """The pass whose body has asked by this verb."""
    run = current_pass.get()
    if run is None:
        place = caller()
        raise NotInDurableTask(
            f"{verb} was called in {place.code.co_name}() ({place.code.co_filename}, line {place.line}), which is not "
            "being executed as a durable task: add base=DurableTask and call it with .delay() or .apply_async()."
        )
    if run.tasks is not None:
        raise NotInDurableTask(
            f"{verb} of celery_durable was called in the async def task of run {run.run_id} ({caller()}), whose event "
            "loop it would block: import step from celery_durable.aio there, and await its verbs."
        )
    run.enter(verb)
    return run


class Dispatcher(Protocol):
    """What a pass needs from the world of messages; the worker layer has the one that is Celery."""

    def may_send_ahead(self, delay: int) -> bool:
        """Whether a message for ``delay`` microseconds from now may be sent already."""

    def wake(self, delay: int) -> None:
        """Send this run's message, to be executed after the delay."""

    def target(self, signature: Any, queue: str | None) -> Target:
        """What ``step.call`` was given, checked; raises where it is nothing that can be called."""

    def follow(self, aftermath: Aftermath) -> None:
        """Other runs have something to do: send their messages."""

    def emitted(self, event_id: str, name: str, key: str | None) -> None:
        """An event was emitted by a step: have it dispatched."""

    def announce(self, waiting_on: str, wake_at: int | None) -> None:
        """Show to Celery's users what the run waits for, before anything can wake it."""

    def stopping(self) -> bool:
        """Whether this worker is shutting down, so that the run should go on elsewhere."""


class Pass(Recorder):
    """One execution of a run's body."""

    def __init__(
        self,
        claim: Claim,
        *,
        store: Store,
        link: Link,
        settings: Settings,
        dispatcher: Dispatcher,
        step_retry: Retry,
    ) -> None:
        super().__init__(claim, store=store, link=link, settings=settings)
        self.dispatcher = dispatcher
        self.step_retry = step_retry
        self.cancelled: RunCancelled | None = None
        self.wake_up: int | None = None
        """The delay of the wake-up that is to be sent once the body is left."""
        self.tasks: Tasks | None = None
        """The event loop's side of this pass, where the task is an ``async def`` one."""
        self.aftermath = Aftermath()
        """What is to be done about other runs once the body is left."""
        self._places: dict[str, Place] = {}
        self._counts: dict[str, int] = {}
        self._warned: set[str] = set()

    # ------------------------------------------------------------------ asking

    def enter(self, verb: str) -> None:
        """Every verb begins here: not while the body is being left, and not inside a step."""
        if self.unwinding is not None:
            raise self.unwinding
        inside = current_step.get()
        if inside is not None:
            raise NotInDurableTask(
                f"{verb} was called inside the step {inside.step_id!r} ({caller()}). Verbs work in the body of a "
                "durable task, not in a step's function: a step is recorded as a whole. Call it in the body."
            )

    def next_id(self, name: str) -> str:
        """The id of the next step that is named by what it is and not by its caller: numbered within its branch."""
        name = f"{current_branch.get()}{name}"
        return numbered(name, self.occurrence(name))

    def occurrence(self, name: str) -> int:
        """How often this name was asked for in this pass, this time included."""
        count = self._counts[name] = self._counts.get(name, 0) + 1
        return count

    def take_id(self, step_id: str) -> str:
        """Claim an id for this pass: it can be used once."""
        check_step_id(step_id)
        place = caller()
        earlier = self._places.setdefault(step_id, place)
        if earlier is not place:
            raise DuplicateStep(
                f"the step id {step_id!r} is used twice in one pass of run {self.run_id}: at {earlier}, "
                f"and at {place}. An id is how a recorded result finds its step again: give each use its own, "
                f'in a loop for instance f"{step_id}-{{index}}".'
            )
        self._asked[step_id] = len(self._asked)
        return step_id

    def decide(self, step_id: str, kind: str, given: str, *, at_most_once: bool = False) -> Decision:
        """What the history says of this step; stops the pass where the code does not fit it."""
        ask = Ask(step_id, kind, fingerprint(given), self.settings.strict_inputs, at_most_once)
        record = self.history.get(step_id)
        if at_most_once:
            self._once.add(step_id)
        if record is None and self.position_of(step_id) >= self.settings.max_steps:
            raise TooManySteps(
                f"run {self.run_id} has recorded {self.settings.max_steps} steps, which is durable_max_steps, and asks "
                f"for {step_id!r}. Start over with step.continue_as_new, or split the work into child runs."
            )
        decision = decide(record, ask, self.now())
        if isinstance(decision, Mismatch):
            self._mismatch(decision)
        if isinstance(decision, Interrupted):
            return self._interrupted(decision.record)
        if getattr(decision, "input_changed", False):
            self._warn_input(step_id)
        return decision

    def check_stopping(self) -> None:
        """Before work is begun here: hand the run on if this worker is shutting down."""
        if self.dispatcher.stopping():
            self.park_with(None, "a worker, its last one is shutting down")

    def check_cancelling(self, *open_branches: Branch) -> bool:
        """Where the run is to be cancelled: record that it is at this point, and raise it into the body.

        ``True``: one of these branches has got an answer meanwhile, so that they are to be looked at again.
        """
        if self.claim.cancelling is None or self.cancelled is not None:
            return False
        first, *others = open_branches
        error = write_error(RunCancelled(self.claim.cancelling))
        rows = [first.stopped_row(error), *(row for branch in others if (row := branch.cancelled_row()) is not None)]
        answered = self._give_up(rows)
        if not answered:
            self.cancel(self.claim.cancelling)
        return bool(answered)

    def withdraw(self, rows: Sequence[StepWrite], *, unheard: bool = False) -> None:
        """Record that these steps are given up, and with that their waits and what they called. One that has got its
        answer meanwhile keeps it.

        ``unheard``: the body is not given it any more.
        """
        while answered := self._give_up(rows):
            for step_id in answered:
                if self.history[step_id].status != "waiting":
                    self.note_seen(step_id, withdrawn=unheard)
            rows = [row for row in rows if row.id not in answered]

    def _give_up(self, rows: Sequence[StepWrite]) -> set[str]:
        """Write these rows, unless some of the steps have got an answer: then these are history, and nothing is
        written."""
        given_up = [row for row in rows if row.known and row.kind in ("wait", "call")]
        called = [self.history[row.id].child for row in given_up]
        if not given_up:
            self.write_all(rows)
            return set()
        found = self.change(
            Changes(
                steps=tuple(rows),
                given_up=tuple(row.id for row in given_up),
                withdrawn=tuple(row.id for row in given_up if row.kind == "wait"),
                cancelled=tuple(child for child in called if child is not None),
            )
        )
        if isinstance(found, Aftermath):
            self.dispatcher.follow(found)
            return set()
        self.adopt(found, [])
        return {record.id for record in found.records}

    def _interrupted(self, record: Record) -> Replay:
        error = StepInterrupted(
            f"step {record.id!r} of run {self.run_id} runs at most once, and the worker died inside it: "
            "whether it took effect is not known, and it was not run again. Look, then decide in the body."
        )
        self.settle(StepWrite(record.id, record.position, record.kind, "failed", known=True), error=error)
        return Replay(self.history[record.id])

    def _mismatch(self, found: Mismatch) -> None:
        place = self._places[found.asked.id]
        if found.why == "kind":
            recorded, asked = f"a {found.recorded.kind!r} step", f"a {found.asked.kind!r} step"
        else:
            recorded, asked = f"the input {found.recorded.input_hash}", f"the input {found.asked.input_hash}"
        self.unwinding = HistoryMismatch(
            f"step {found.asked.id!r} of run {self.run_id} was recorded as {recorded}, and the code now asks for "
            f"{asked} ({place}). The code has changed under a run that was past this point. Guard the change with "
            "step.patched, or give the new step an id of its own; the run is paused and goes on after the deploy."
        )
        raise self.unwinding

    def _warn_input(self, step_id: str) -> None:
        if step_id not in self._warned:
            self._warned.add(step_id)
            logger.warning(
                "run %s, step %r: its recorded result was kept, but the code now gives it another input (%s). "
                "Set durable_strict_inputs to make this an error.",
                self.run_id,
                step_id,
                self._places.get(step_id),
            )

    # ----------------------------------------------------------------- leaving

    def cancel(self, reason: str) -> NoReturn:
        """Raise ``RunCancelled`` into the body, which can clean up, but not overrule it."""
        self.cancelled = self.cancelled or RunCancelled(reason)
        raise self.cancelled

    def let_go(self) -> None:
        """Break the circle of this pass, the errors it raised, and their tracebacks, which hold the pass:
        without this its history stays in memory until Python's rare full collection."""
        for error in (self.unwinding, self.cancelled):
            if error is not None:
                error.__traceback__ = None
        self.unwinding = self.cancelled = None
        self._raised.clear()
        self.history.clear()

    def park_with(self, step: StepWrite | None, waiting_on: str, delay: int = 0, **details: Any) -> NoReturn:
        """Suspend the run until this step is due again, or for a while, and leave the body."""
        wake_at = self.now() + delay if step is None else step.wake_at
        self.park(wake_at, waiting_on, Changes(steps=() if step is None else (step,)), **details)
        raise AssertionError("only what waits for something from outside can be overtaken by it")

    def park_for(
        self, waiting: Sequence[tuple[Branch, Waiting]], quorum: int | None = None, also_at: int | None = None
    ) -> None:
        """Suspend the run until one of these branches has something to do, and leave the body; or find that one
        of them has its answer already."""
        waits = [state for _, state in waiting]
        ends = [until for until in (also_at, *(state.until for state in waits)) if until is not None]
        what = waits[0].what
        if len(waits) > 1:
            what = f"{len(waits)} branches: {'; '.join(state.what for state in waits[:5])}"
        parked = self.park(
            min(ends, default=None),
            what,
            openings(waits),
            watched=[branch.id for branch, state in waiting if state.outside and state.opening is None],
            quorum=quorum,
        )
        self.adopt(parked, [branch for branch, _ in waiting])

    def adopt(self, found: Overtaken, branches: Sequence[Branch]) -> None:
        """What came from outside while this pass was at work is history now."""
        self.history.update({record.id: record for record in found.records})
        for branch in branches:
            if branch.id in found.events:
                branch.take(found.events[branch.id])

    def park(self, wake_at: int | None, waiting_on: str, changes: Changes, **details: Any) -> Overtaken:
        """Suspend the run and leave the body, unless what it is about to wait for is there."""
        ahead, due_at = self.wake_plan(wake_at)
        changes = self.with_marks(changes)
        parked = self.reaching(
            lambda: self.store.suspend(
                self.link,
                self.fence,
                changes=changes,
                wake_at=wake_at,
                due_at=due_at,
                waiting_on=waiting_on,
                published=ahead is not None,
                on_locked=lambda: self.dispatcher.announce(waiting_on, wake_at),
                patience=self.patience,
                **details,
            )
        )
        if parked is None:
            self.lose()
        if isinstance(parked, Aftermath):
            self.wake_up = ahead
            self.aftermath += parked
            self._parked(waiting_on, wake_at)
        self._marks |= dict(changes.marks)
        return parked

    def _parked(self, waiting_on: str, wake_at: int | None) -> NoReturn:
        logger.info(
            "run %s parked, waiting for %s%s",
            self.run_id,
            waiting_on,
            f" until {as_datetime(wake_at):%Y-%m-%d %H:%M:%S} UTC" if wake_at else "",
        )
        self.leave(Suspended(waiting_on, wake_at))

    def wake_plan(self, wake_at: int | None) -> tuple[int | None, int | None]:
        """The delay of the message to send now (if one is), and when the sweeper has to look."""
        if wake_at is None:
            return None, None
        delay = max(0, wake_at - self.now())
        if delay <= self.settings.eta_horizon and self.dispatcher.may_send_ahead(delay):
            return delay, wake_at + GRACE
        if delay <= self.settings.eta_horizon:
            return None, wake_at
        return None, wake_at - self.settings.eta_horizon

    @staticmethod
    def luck() -> float:
        return random.random()

    @staticmethod
    def new_event_id() -> str:
        return secrets.token_hex(16)
