"""One pass of a run: what happens between its claim and the moment the body is left.

The verbs (``verbs.py``) turn what the body asks for into calls of the methods here; ``core.replay.decide`` says what
each comes to.
"""

from __future__ import annotations

import logging
import random
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ..core.duration import SECOND, as_datetime
from ..core.faults import write_error
from ..core.ids import ROLLBACK, check_step_id, fingerprint, numbered
from ..core.replay import Ask, Decision, Interrupted, Mismatch, Perform, Record, Replay, decide
from ..core.retry import Retry
from ..errors import DuplicateStep, HistoryMismatch, NotInDurableTask, RunCancelled, RunOverdue, StepInterrupted
from ..store.records import Aftermath, Changes, Claim, Overtaken, StepWrite
from .branch import Branch, Waiting, openings
from .changing import mismatch_of
from .control import RollingBack, Suspended
from .current import current_branch, current_step
from .dispatcher import Dispatcher, tell_of
from .recorder import Recorder
from .where import Place, caller
from .work import Work

if TYPE_CHECKING:
    from ..store.link import Link
    from ..store.store import Store
    from .settings import Settings
    from .tasks import Tasks

__all__ = ["GRACE", "Pass"]

logger = logging.getLogger("celery_durable")

GRACE = 15 * SECOND
"""How long a message that was sent may take before the sweeper asks whether it was lost."""


class Pass(Recorder):
    """One execution of a run's body."""

    is_rehearsal = False
    uses_threads = True
    """Functions that are at work at once have a thread each; without, they are called one after the other."""

    def __init__(
        self,
        claim: Claim,
        *,
        store: Store,
        link: Link,
        settings: Settings,
        dispatcher: Dispatcher,
        step_retry: Retry,
        retention: int | None = None,
    ) -> None:
        super().__init__(claim, store=store, link=link, settings=settings)
        self.dispatcher = dispatcher
        self.retention = retention
        self.step_retry = step_retry
        self.cancelled: RunCancelled | None = None
        self.wake_up: int | None = None
        """The delay of the wake-up that is to be sent once the body is left."""
        self.tasks: Tasks | None = None
        """The event loop's side of this pass, where the task is an ``async def`` one."""
        self.aftermath = Aftermath()
        """What is to be done about other runs once the body is left."""
        self.undos: list[Any] = []
        """What the body has registered to be undone, in order."""
        self.patches: dict[str, bool] = {}
        """Which changes of the code this run is on the new side of, as far as it was asked."""
        self.reports = 0
        """How often ``step.set_progress`` was called in this pass."""
        self._is_ending = False
        self._places: dict[str, Place] = {}
        self._counts: dict[str, int] = {}
        self._warned: set[str] = set()
        self._kinds: dict[str, str] = {}

    # ------------------------------------------------------------------ asking

    def enter(self, verb: str) -> None:
        """Every verb begins here: not while the body is being left, and not inside a step."""
        if self.unwinding is not None:
            raise self.unwinding
        if (inside := current_step.get()) is not None:
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
        if type(step_id) is not str or step_id not in self.history:  # what is recorded was checked then
            check_step_id(step_id)
        place = caller()
        earlier = self._places.setdefault(step_id, place)
        if earlier is not place:
            raise DuplicateStep(
                f"the step id {step_id!r} is used twice in one pass of run {self.run_id}: at {earlier}, "
                f"and at {place}. An id is how a recorded result finds its step again: give each use its own, "
                f'in a loop for instance f"{step_id}-{{index}}".'
            )
        self.put_last(step_id)
        return step_id

    def decide(self, step_id: str, kind: str, given: str, *, at_most_once: bool = False) -> Decision:
        """What the history says of this step; stops the pass where the code does not fit it."""
        self._kinds[step_id] = kind
        ask = Ask(step_id, kind, fingerprint(given), self.settings.strict_inputs, at_most_once)
        record = self.history.get(step_id)
        if at_most_once:
            self._once.add(step_id)
        if record is None and not self._is_ending:
            self.check_count(step_id)
        timed = record is not None and record.wake_at is not None
        decision = decide(record, ask, self.now() if timed else 0)
        if isinstance(decision, Replay):
            if decision.input_changed:
                self._warn_input(step_id)
            return decision
        if isinstance(decision, Mismatch):
            self.leave_with(mismatch_of(self, decision, given, self._places[step_id]))
        self.check_rollback()
        if isinstance(decision, Interrupted):
            return self._interrupted(decision.record)
        if isinstance(decision, Perform) and decision.input_changed:
            self._warn_input(step_id)
        return decision

    def place_of(self, step_id: str) -> Place | None:
        """Where this was asked for in this pass."""
        return self._places.get(step_id)

    def kind_of(self, step_id: str) -> str | None:
        """As what kind of step this was asked for in this pass."""
        return self._kinds.get(step_id)

    def check_rollback(self) -> None:
        """Before something new is done: not where the run is being rolled back, and that was all."""
        if ROLLBACK in self.history and not self._is_ending:
            self.leave(RollingBack())

    def check_stopping(self) -> None:
        """Before work is begun here: hand the run on if this worker is shutting down."""
        if self.dispatcher.stopping():
            self.park_with(None, "a worker, its last one is shutting down")

    def check_cancelling(self, *open_branches: Branch) -> bool:
        """Where the run is to be cancelled: record that it is at this point, and raise it into the body.

        ``True``: one of these branches has got an answer meanwhile, so that they are to be looked at again.
        """
        why = self.is_to_end()
        if why is None:
            return False
        first, *others = open_branches
        error = write_error(why)
        rows = [first.stopped_row(error), *(row for branch in others if (row := branch.cancelled_row()) is not None)]
        answered = self._give_up(rows)
        if not answered:
            self.cancel(why)
        return bool(answered)

    def is_to_end(self) -> RunCancelled | None:
        """How the run is to be cancelled where its body has come to, if it is and has not been told yet."""
        if self.cancelled is not None or self._is_ending:
            return None
        if self.claim.cancelling is not None:
            return RunCancelled(self.claim.cancelling)
        deadline = self.claim.deadline_at
        if deadline is None or deadline > self.now():
            return None
        return RunOverdue(
            f"run {self.run_id} of {self.dispatcher.task_name()} took longer than its run_timeout, which was up at "
            f"{as_datetime(deadline):%Y-%m-%d %H:%M:%S} UTC"
        )

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
        given_up = [
            row
            for row in rows
            # A call that has failed, and is not made again yet, waits for nobody.
            if row.known and (row.kind in ("wait", "lock") or (row.kind == "call" and self.history[row.id].child))
        ]
        called = [self.history[row.id].child for row in given_up]
        if not given_up:
            self.write_all(rows)
            return set()
        found = self.change(
            Changes(
                steps=tuple(rows),
                given_up=tuple(row.id for row in given_up),
                withdrawn=tuple(row.id for row in given_up if row.kind == "wait"),
                left=tuple(row.id for row in given_up if row.kind == "lock"),
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
        row = StepWrite(
            record.id, record.position, record.kind, "failed", started_at=record.started_at, tries=record.tries,
            known=True,
        )  # fmt: skip
        self.settle(row, error=error)
        return Replay(self.history[record.id])

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

    def function_of(self, step_id: str, work: Work) -> Callable[..., Any]:
        """What is called for this step."""
        return work.fn

    def draw(self, step_id: str, make: Callable[[], str]) -> str:
        """What is drawn for this step, as it is recorded."""
        return make()

    # ----------------------------------------------------------------- leaving

    def swallowed(self) -> None:
        """The body was to be left, and returned: it has caught what carries it out of its body."""
        logger.warning(
            "run %s: its body caught the exception that was to park it, and went on; what it returned is dropped. "
            "Catch Exception, and not BaseException: what is done then is done again by every pass",
            self.run_id,
        )

    def cancel(self, cancelled: RunCancelled) -> NoReturn:
        """Raise ``RunCancelled`` into the body, which can clean up, but not overrule it."""
        self.cancelled = self.cancelled or cancelled
        raise self.cancelled

    def leave_with(self, misfit: HistoryMismatch) -> NoReturn:
        """Leave the body because the code does not fit the run, which is paused."""
        self.unwinding = misfit
        raise misfit

    def end(self) -> None:
        """The body was left for good: what is done from here on is not cancelled, nor bounded in number."""
        self._is_ending = True
        self.unwinding = None

    def let_go(self) -> None:
        """Break the circle of this pass, the errors it raised, and their tracebacks, which hold the pass:
        without this its history stays in memory until Python's rare full collection."""
        for error in (self.unwinding, self.cancelled):
            if error is not None:
                error.__traceback__ = None
        self.unwinding = self.cancelled = None
        self._raised.clear()
        self.history.clear()
        self.link.patience = 0.0

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
        deadline = self.claim.deadline_at
        if deadline is not None and self.cancelled is None and not self._is_ending:
            wake_at = deadline if wake_at is None else min(wake_at, deadline)
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
        if isinstance(parked, Aftermath):
            self.kept(*changes.steps)
            self.wake_up = ahead
            self.aftermath += parked
            self._parked(waiting_on, wake_at)
        self._marks |= dict(changes.marks)
        if parked is None:
            self.lose(*changes.steps)
        return parked

    def _parked(self, waiting_on: str, wake_at: int | None) -> NoReturn:
        logger.info(
            "run %s parked, waiting for %s%s",
            self.run_id,
            waiting_on,
            f" until {as_datetime(wake_at):%Y-%m-%d %H:%M:%S} UTC" if wake_at else "",
        )
        self.leave(Suspended(waiting_on, wake_at))

    def kept(self, *steps: StepWrite) -> None:
        super().kept(*steps)
        tell_of(self.dispatcher, steps)

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
