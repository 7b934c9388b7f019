"""One pass of a run: what happens between its claim and the moment the body is left.

The verbs (``verbs.py``) turn
what the body asks for into calls of the methods here; ``core.replay.decide`` says what each comes to.
"""

from __future__ import annotations

import logging
import random
import secrets
from contextvars import ContextVar
from typing import Any, NoReturn, Protocol

from ..core.duration import SECOND, as_datetime
from ..core.ids import check_step_id, fingerprint, numbered
from ..core.replay import Ask, Decision, Interrupted, Mismatch, Park, Record, Replay, decide
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
from ..store.records import Claim, NewWait, Overtaken, StepWrite, StoredEvent
from ..store.store import Store
from .control import Suspended
from .recorder import Recorder
from .settings import Settings
from .where import Place, caller
from .work import StepContext

__all__ = ["GRACE", "Dispatcher", "Pass", "current_pass", "current_step"]

logger = logging.getLogger("celery_durable")

GRACE = 15 * SECOND
"""How long a message that was sent may take before the sweeper asks whether it was lost."""

current_pass: ContextVar[Pass | None] = ContextVar("celery_durable_pass", default=None)
current_step: ContextVar[StepContext | None] = ContextVar("celery_durable_step", default=None)


class Dispatcher(Protocol):
    """What a pass needs from the world of messages; the worker layer has the one that is Celery."""

    def may_send_ahead(self, delay: int) -> bool:
        """Whether a message for ``delay`` microseconds from now may be sent already."""

    def wake(self, delay: int) -> None:
        """Send this run's message, to be executed after the delay."""

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
        """The id of the next step that is named by what it is and not by its caller."""
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
        return step_id

    def decide(
        self, step_id: str, kind: str, given: str, *, at_most_once: bool = False, waiting_on: str | None = None
    ) -> Decision:
        """What this step comes to; parks or stops the pass where it can't go on.

        ``waiting_on``: the step waits for something from outside, which may come at any moment.
        """
        ask = Ask(step_id, kind, fingerprint(given), self.settings.strict_inputs, at_most_once)
        record = self.history.get(step_id)
        if at_most_once:
            self._once.add(step_id)
        if record is None and self._position >= self.settings.max_steps:
            raise TooManySteps(
                f"run {self.run_id} has recorded {self._position} steps, which is durable_max_steps, and asks for "
                f"{step_id!r}. Start over with step.continue_as_new, or split the work into child runs."
            )
        decision = decide(record, ask, self.now())
        if isinstance(decision, Mismatch):
            self._mismatch(decision)
        if isinstance(decision, Park) and waiting_on is not None:
            self.park_unless_answered(decision.wake_at, waiting_on, waits=(step_id,))
            decision = decide(self.history[step_id], ask, self.now())
        elif isinstance(decision, Park):
            self.park(decision.wake_at, f"step {step_id!r}")
        if isinstance(decision, Interrupted):
            self._interrupted(decision.record)
        if getattr(decision, "input_changed", False):
            self._warn_input(step_id)
        if not isinstance(decision, Replay) and self.dispatcher.stopping():
            self.park(self.now(), "a worker, its last one is shutting down")
        return decision

    def _interrupted(self, record: Record) -> None:
        error = StepInterrupted(
            f"step {record.id!r} of run {self.run_id} runs at most once, and the worker died inside it: "
            "whether it took effect is not known, and it was not run again. Look, then decide in the body."
        )
        self.settle(StepWrite(record.id, record.position, record.kind, "failed", known=True), error=error)
        raise self.error_of(record.id)

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

    def park(self, wake_at: int | None, waiting_on: str, step: StepWrite | None = None, **details: Any) -> NoReturn:
        """Suspend the run until then, and leave the body."""
        self.park_unless_answered(wake_at, waiting_on, step=step, **details)
        raise AssertionError("only a wait for something from outside can be answered meanwhile")

    def park_unless_answered(
        self,
        wake_at: int | None,
        waiting_on: str,
        *,
        step: StepWrite | None = None,
        wait: NewWait | None = None,
        **details: Any,
    ) -> StoredEvent | None:
        """Suspend the run and leave the body, unless what it is about to wait for is there.

        ``wait`` is a new one, and then the event that answers it is returned. Those that are registered already
        are named by ``waits``, and what has answered one is history afterwards.
        """
        ahead, due_at = self.wake_plan(wake_at)
        details |= {
            "wake_at": wake_at,
            "due_at": due_at,
            "waiting_on": waiting_on,
            "published": ahead is not None,
            "on_locked": lambda: self.dispatcher.announce(waiting_on, wake_at),
            "patience": self.patience,
        }

        def suspend() -> bool | Overtaken:
            if wait is not None and step is not None:
                return self.store.park_for_event(self.link, self.fence, step, wait, **details)
            return self.store.suspend(self.link, self.fence, step=step, **details)

        parked = self.reaching(suspend)
        if not isinstance(parked, Overtaken):
            self._parked(parked, waiting_on, wake_at, ahead)
        self.history.update({record.id: record for record in parked.records})
        return parked.event

    def _parked(self, kept: bool, waiting_on: str, wake_at: int | None, ahead: int | None) -> NoReturn:
        if not kept:
            self.lose()
        self.wake_up = ahead
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
