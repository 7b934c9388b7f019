"""One pass of a run: what happens between its claim and the moment the body is left.

The pass holds the run's fence, its history and one database connection. The verbs (``verbs.py``) turn
what the body asks for into calls of the methods here; ``core.replay.decide`` says what each comes to.
"""

from __future__ import annotations

import logging
import random
import time
from contextvars import ContextVar
from typing import Any, Protocol

from sqlalchemy.exc import DBAPIError

from ..core.codec import decode, encode
from ..core.duration import SECOND, as_datetime
from ..core.faults import read_error, summary, write_error
from ..core.ids import check_step_id, fingerprint, numbered
from ..core.replay import Ask, Decision, Interrupted, Mismatch, Park, Record, Replay, decide
from ..core.retry import Retry
from ..errors import (
    ConfigurationError,
    DuplicateStep,
    HistoryMismatch,
    NotInDurableTask,
    PayloadTooLarge,
    StepFailed,
    StepInterrupted,
    TooManySteps,
)
from ..store.link import Link
from ..store.records import Claim, StepWrite
from ..store.store import Store
from .control import DatabaseAway, LeaseLost, Suspended, Unwind
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

    def announce(self, waiting_on: str, wake_at: int | None) -> None:
        """Show to Celery's users what the run waits for, before anything can wake it."""

    def stopping(self) -> bool:
        """Whether this worker is shutting down, so that the run should go on elsewhere."""


class Pass:
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
        self.run_id = claim.fence.run_id
        self.fence = claim.fence
        self.claim = claim
        self.history = claim.history
        self.settings = settings
        self.store = store
        self.link = link
        self.dispatcher = dispatcher
        self.step_retry = step_retry
        self.unwinding: BaseException | None = None
        self.wake_up: int | None = None
        """The delay of the wake-up that is to be sent once the body is left."""
        self._began = time.monotonic()
        self._lease_until = claim.now + settings.lease
        self._places: dict[str, Place] = {}
        self._counts: dict[str, int] = {}
        self._position = max((record.position for record in self.history.values()), default=-1) + 1
        self._raised: dict[int, tuple[str, BaseException]] = {}
        self._warned: set[str] = set()
        self._once: set[str] = set()

    # ------------------------------------------------------------------- time

    def now(self) -> int:
        """The database's clock, carried forward by this process's steady one."""
        return self.claim.now + int((time.monotonic() - self._began) * SECOND)

    def lease_until(self) -> int:
        """A new end of the lease; the old one while that is far off, as changing it costs an index entry."""
        now = self.now()
        if self._lease_until - now < self.settings.lease // 2:
            self._lease_until = now + self.settings.lease
        return self._lease_until

    @property
    def patience(self) -> float:
        """How many seconds a write may be tried again: after the lease another worker has the run."""
        return self.settings.lease / SECOND

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

    def decide(self, step_id: str, kind: str, given: str, *, at_most_once: bool = False) -> Decision:
        """What this step comes to; parks or stops the pass where it can't go on."""
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
        if isinstance(decision, Park):
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

    # --------------------------------------------------------------- recording

    def write(self, step: StepWrite) -> None:
        """Record a step's row, or find out that the run is not ours any more."""
        try:
            kept = self.store.record(self.link, self.fence, step, self.lease_until(), self.patience)
        except (DBAPIError, ConfigurationError) as error:
            self.leave(DatabaseAway(str(error)))
        if not kept:
            self.lose()
        self.remember(step)

    def remember(self, step: StepWrite) -> None:
        """The row is recorded: it is history from here on, also for this pass."""
        if not step.known:
            self._position += 1
        self.history[step.id] = Record(
            step.id,
            step.kind,
            step.status,
            step.position,
            step.input_hash,
            step.result,
            step.error,
            step.attempts,
            step.wake_at,
            step.heartbeat,
        )

    def settle(self, step: StepWrite, *, result: str | None = None, error: BaseException | None = None) -> None:
        """Record a step's outcome."""
        values = vars(step) | {"status": "completed", "result": result, "error": None, "finished_at": self.now()}
        if error is not None:
            values |= {"status": "failed", "error": self.describe_error(error, step)}
        self.write(StepWrite(**values))

    def describe_error(self, error: BaseException, step: StepWrite) -> str:
        """The record of a step's error, with the note that tells where it comes from."""
        attempts = f" after {step.attempts} attempts" if step.attempts > 1 else ""
        return self.error_record(error, f"celery_durable: step {step.id!r} of run {self.run_id} failed{attempts}")

    def error_record(self, error: BaseException, note: str | None = None) -> str:
        """The record of an error, shortened where it is larger than a stored value may be."""
        record = write_error(error, note)
        if len(record) <= self.settings.max_payload:
            return record
        short = f"{type(error).__qualname__}: {str(error)[:1000]}... (the error was too large to store)"
        return write_error(StepFailed(short), note)

    def new_step(self, step_id: str, kind: str, given: str, **values: Any) -> StepWrite:
        """A row for a step that has none, or the one that it has, to be changed."""
        known = self.history.get(step_id)
        return StepWrite(
            id=step_id,
            position=known.position if known else self._position,
            kind=kind,
            input=given,
            input_hash=fingerprint(given),
            known=known is not None,
            **values,
        )

    def measured(self, text: str, what: str) -> str:
        """The text, unless it is larger than a stored value may be."""
        if len(text) > self.settings.max_payload:
            raise PayloadTooLarge(
                f"{what} of run {self.run_id} takes {len(text):,} bytes, and durable_max_payload is "
                f"{self.settings.max_payload:,}. Store it elsewhere and hand over where it is, or raise the setting."
            )
        return text

    def error_of(self, step_id: str) -> BaseException:
        """The recorded error of a step, to be raised into the body."""
        text = self.history[step_id].error
        assert text is not None
        error = read_error(text)
        self._raised[id(error)] = (step_id, error)
        return error

    def blamed_steps(self, error: BaseException | None) -> list[str]:
        """The failed steps that an error leaving the body comes from, less those that run at most once."""
        found, seen = [], set()
        while error is not None and id(error) not in seen:
            seen.add(id(error))
            if id(error) in self._raised:
                found.append(self._raised[id(error)][0])
            error = error.__cause__ or error.__context__
        return [step_id for step_id in found if step_id not in self._once]

    def write_heartbeat(self, step: StepWrite, detail: Any) -> None:
        """Record how far a step has come."""
        text = self.measured(encode(detail, f"the heartbeat of step {step.id!r}"), "a heartbeat")
        known = step.id in self.history
        self.write(StepWrite(**vars(step) | {"status": "started", "heartbeat": text, "known": known}))

    # ----------------------------------------------------------------- leaving

    def leave(self, unwind: Unwind) -> None:
        """Leave the body."""
        self.unwinding = unwind
        raise unwind

    def let_go(self) -> None:
        """Break the circle of this pass, the errors it raised, and their tracebacks, which hold the pass:
        without this its history stays in memory until Python's rare full collection."""
        if self.unwinding is not None:
            self.unwinding.__traceback__ = None
        self.unwinding = None
        self._raised.clear()
        self.history.clear()

    def lose(self) -> None:
        """The fence stopped a write."""
        logger.warning("run %s: another worker has taken it over, this pass stops without an effect", self.run_id)
        self.leave(LeaseLost(self.run_id))

    def park(
        self,
        wake_at: int | None,
        waiting_on: str,
        step: StepWrite | None = None,
        **details: Any,
    ) -> None:
        """Suspend the run until then, and leave the body."""
        ahead, due_at = self.wake_plan(wake_at)
        try:
            parked = self.store.suspend(
                self.link,
                self.fence,
                step=step,
                wake_at=wake_at,
                due_at=due_at,
                waiting_on=waiting_on,
                published=ahead is not None,
                on_locked=lambda: self.dispatcher.announce(waiting_on, wake_at),
                patience=self.patience,
                **details,
            )
        except (DBAPIError, ConfigurationError) as error:
            self.leave(DatabaseAway(str(error)))
        if not parked:
            self.lose()
        self.wake_up = ahead
        logger.info(
            "run %s parked, waiting for %s%s",
            self.run_id,
            waiting_on,
            f" until {as_datetime(wake_at):%Y-%m-%d %H:%M:%S} UTC" if wake_at else "",
        )
        self.leave(Suspended(waiting_on))

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
    def read(text: str | None) -> Any:
        return None if text is None else decode(text)

    @staticmethod
    def reason(error_text: str) -> str:
        """A recorded error in one line."""
        info = summary(error_text)
        return f"{info['type'].rpartition('.')[2]}: {info['message']}"[:200]
