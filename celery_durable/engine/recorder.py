"""What a pass writes: the steps of its run, under its fence, and what it knows of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from sqlalchemy.exc import DBAPIError

from ..core.codec import decode, encode, measured
from ..core.duration import SECOND
from ..core.faults import bounded_error, read_error, summary
from ..core.ids import RELEASE, fingerprint
from ..core.replay import Record
from ..errors import ConfigurationError, DamagedRecord, StepFailed, TooManySteps
from ..store.records import Aftermath, Changes, Claim, LogLine, Overtaken, StepWrite
from .control import Damaged, DatabaseAway, LeaseLost, Stopped, Unwind
from .work import StepContext

if TYPE_CHECKING:
    from ..store.link import Link
    from ..store.store import Store
    from .settings import Settings

__all__ = ["Recorder"]

logger = logging.getLogger("celery_durable")

T = TypeVar("T")

_NEVER_ASKED = frozenset({"patched", "rollback", "timer", "undo"})
"""Kinds of records that do not tell how far a body has come."""
_OF_FUNCTIONS = ("run", "undo")
"""Kinds of steps that may have had an effect before anything of them was recorded."""

_as_record = attrgetter(*Record._fields)


class Reading:
    """What :meth:`Recorder.reading` is."""

    __slots__ = ("_recorder", "_step_id", "_what")

    def __init__(self, recorder: Recorder, what: str, step_id: str) -> None:
        self._recorder = recorder
        self._what = what
        self._step_id = step_id

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if isinstance(error, DamagedRecord):
            self._recorder.leave_damaged(error, self._what, self._step_id)


class Recorder:
    """A claimed run: its history, and the writes that add to it."""

    def __init__(self, claim: Claim, *, store: Store, link: Link, settings: Settings) -> None:
        self.run_id = claim.fence.run_id
        self.fence = claim.fence
        self.claim = claim
        self.history = claim.history
        self.settings = settings
        self.store = store
        self.link = link
        self.unwinding: BaseException | None = None
        link.patience = self.patience
        self._began = store.steady.seconds()
        self._lease_until = claim.lease_until
        self._asked: dict[str, int] = {}
        self._positions = 0
        self._unread = {record.id for record in self.history.values() if record.kind not in _NEVER_ASKED}
        self._lines: list[LogLine] = []
        self._lines_here = 0
        self._lines_of_steps = 0
        self._seen = max((abs(record.seen or 0) for record in self.history.values()), default=0)
        self._marks: dict[str, int] = {}
        self._writing = threading.RLock()
        self._raised: dict[int, tuple[str, BaseException]] = {}
        self._once: set[str] = set()
        self._unrecorded: dict[str, StepWrite] = {}

    # ------------------------------------------------------------------- time

    def now(self) -> int:
        """The database's clock, carried forward by this process's steady one."""
        return self.claim.now + round((self.store.steady.seconds() - self._began) * SECOND)

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

    # --------------------------------------------------------------- recording

    def write(self, step: StepWrite) -> None:
        """Record a step's row, or find out that the run is not ours any more."""
        before, until = self._lease_until, self.lease_until()
        is_fresh = until == before
        self.keep(step, lambda: self.store.record(self.link, self.fence, step, until, self.patience, is_fresh=is_fresh))

    def write_all(self, steps: Sequence[StepWrite]) -> None:
        """Record what is ready together as one transaction, as one statement where the database has one for it."""
        fresh = not self._marks and all(not step.known for step in steps)
        if fresh and len(steps) == 1:
            self.write(steps[0])
        elif fresh and steps and self.store.dialect.writes_in_cte:
            kept = self.reaching(
                lambda: self.store.record_together(self.link, self.fence, steps, self.lease_until(), self.patience)
            )
            if not kept:
                self.lose(*steps)
            self.kept(*steps)
        elif steps or self._marks:
            self.change(Changes(steps=tuple(steps)))

    def change(self, changes: Changes) -> Aftermath | Overtaken:
        """Write what concerns others, too, and go on. What it leaves to be done is the caller's."""
        changes = self.with_marks(changes)
        found = self.reaching(
            lambda: self.store.change(self.link, self.fence, changes, self.lease_until(), self.patience)
        )
        if not isinstance(found, Aftermath):
            self._marks |= dict(changes.marks)
        if found is None:
            self.lose(*changes.steps)
        if isinstance(found, Aftermath):
            self.kept(*changes.steps)
        return found

    def with_marks(self, changes: Changes) -> Changes:
        """The changes, and with them the order of the answers that the body was given since the last write."""
        marks, self._marks = self._marks, {}
        return replace(changes, marks=(*changes.marks, *marks.items()))

    def note_seen(self, step_id: str, *, withdrawn: bool = False) -> None:
        """The body is given this answer now. That is part of what has happened: it is kept with the next write.

        ``withdrawn``: the answer was there, and the body did not take it any more.
        """
        record = self.history[step_id]
        if record.seen is None or (withdrawn and record.seen > 0):
            place = self.next_place()
            self._marks[step_id] = -place if withdrawn else place
            self.history[step_id] = record._replace(seen=self._marks[step_id])

    def place_anew(self, step_id: str) -> int:
        """The body will be given this answer after all that have their place by now. Kept with the next write."""
        place = self._marks[step_id] = self.next_place()
        self.history[step_id] = self.history[step_id]._replace(seen=place)
        return place

    def next_place(self) -> int:
        """The place of one more answer in the order of all."""
        self._seen += 1
        return self._seen

    def keep(self, step: StepWrite, write: Callable[[], bool]) -> None:
        """Do a write that records this step; whether it was kept is what it returns."""
        if not self.reaching(write):
            self.lose(step)
        self.kept(step)

    def reaching(self, operation: Callable[[], T]) -> T:
        """Do an operation of the store, one at a time: branches on other threads send heartbeats. Leave the body
        where the database stays away."""
        try:
            with self._writing:
                self.flush_log()  # first: what is recorded next makes a later pass silent here
                return operation()
        except (DBAPIError, ConfigurationError) as error:
            self.leave(DatabaseAway(str(error)))

    def kept(self, *steps: StepWrite) -> None:
        """These rows are recorded, and are history from here on."""
        self.remember(*steps)

    def remember(self, *steps: StepWrite) -> None:
        """These rows are as good as recorded: they are history, also for this pass."""
        for step in steps:
            self.history[step.id] = Record._make(_as_record(step))

    def settled(self, step: StepWrite, *, result: str | None = None, error: BaseException | None = None) -> StepWrite:
        """A step's row with its outcome."""
        return step._replace(
            status="failed" if error is not None else "completed",
            result=result,
            error=self.describe_error(error, step) if error is not None else None,
            finished_at=self.now(),
            wake_at=None,
            seen=self.next_place(),
        )

    def settle(self, step: StepWrite, *, result: str | None = None, error: BaseException | None = None) -> None:
        """Record a step's outcome."""
        self.write(self.settled(step, result=result, error=error))

    def describe_error(self, error: BaseException, step: StepWrite) -> str:
        """The record of a step's error, with the note that tells where it comes from."""
        attempts = f" after {step.attempts} attempts" if step.attempts > 1 else ""
        return self.error_record(error, f"celery_durable: step {step.id!r} of run {self.run_id} failed{attempts}")

    def error_record(self, error: BaseException, note: str | None = None) -> str:
        """The record of an error, shortened where it is larger than a stored value may be."""
        return bounded_error(error, self.settings.max_payload, note, self.settings.redaction.text)

    def new_step(self, step_id: str, kind: str, given: str, **values: Any) -> StepWrite:
        """A row for a step that has none, or the one that it has, to be changed."""
        return StepWrite(
            id=step_id,
            position=self.recorded_position(step_id),
            kind=kind,
            input=given,
            input_hash=fingerprint(given),
            known=step_id in self.history,
            **values,
        )

    def recorded_position(self, step_id: str) -> int:
        """The place of a step as its row has it, or will."""
        known = self.history.get(step_id)
        return self._asked[step_id] if known is None else known.position

    def position_of(self, step_id: str) -> int:
        """The place of a step in the order in which this pass asks."""
        return self._asked[step_id]

    def take_position(self, step_id: str) -> int:
        """The place of something that nobody asks for, but that happens here in every pass."""
        if step_id not in self._asked:
            self.put_last(step_id)
        return self._asked[step_id]

    def put_last(self, step_id: str) -> None:
        """Its place comes after all that were asked for so far."""
        self._asked[step_id] = self._positions
        self._positions += 1
        self._lines_here = 0
        self._unread.discard(step_id)

    def check_count(self, step_id: str) -> None:
        """Not more steps than a run may have; a warning before that."""
        most, place = self.settings.max_steps, self.position_of(step_id)
        if place == most * 8 // 10 and most > 10:
            logger.warning(
                "run %s has recorded %d steps, and durable_max_steps is %d: start over with step.continue_as_new "
                "before that, or split the work into child runs",
                self.run_id,
                place,
                most,
            )
        if place >= most:
            raise TooManySteps(
                f"run {self.run_id} has recorded {self.settings.max_steps} steps, which is durable_max_steps, and asks "
                f"for {step_id!r}. Start over with step.continue_as_new, or split the work into child runs."
            )

    # ----------------------------------------------------------------- replaying

    @property
    def is_replaying(self) -> bool:
        """Whether an earlier pass has been past this point: there is something recorded that was not asked for yet."""
        return bool(self._unread)

    def unread(self) -> list[Record]:
        """What is recorded and was not asked for so far, in its order."""
        return sorted((self.history[step_id] for step_id in self._unread), key=lambda record: record.position)

    def asked_last(self) -> str | None:
        """The step that was asked for last."""
        return max(self._asked, key=self._asked.__getitem__, default=None)

    def said(self, line: LogLine) -> None:
        """Keep a line of the logger: it is written with whatever is written next."""
        with self._writing:
            self._lines.append(line)

    def place_of_line(self, step: StepContext | None) -> tuple[str, str | None]:
        """What tells a line from all others, also where it is said again because nothing was recorded after it; and the
        step that it belongs to."""
        where = f"{self.claim.generation}.{self._positions:06}"
        with self._writing:
            if step is None:
                self._lines_here += 1
                return f"{where}.{self._lines_here:04}", None
            self._lines_of_steps += 1  # a step that is done again says it again
            return f"{where}.{self.claim.passes}.{self._lines_of_steps:04}", step.step_id

    def flush_log(self) -> None:
        """Write the lines that are not written yet."""
        if self._lines:
            lines, self._lines = self._lines, []
            self.store.keep_log(self.link, self.run_id, lines)

    def measured(self, text: str, what: str) -> str:
        """The text, unless it is larger than a stored value may be."""
        return measured(text, f"{what} of run {self.run_id}", self.settings.max_payload)

    def error_of(self, step_id: str, otherwise: type[Exception] = StepFailed) -> BaseException:
        """The recorded error of a step, to be raised into the body."""
        text = self.history[step_id].error
        assert text is not None
        error = read_error(text, otherwise)
        self._raised[id(error)] = (step_id, error)
        return error

    def blamed_steps(self, error: BaseException | None) -> list[str]:
        """The failed steps that an error leaving the body comes from, less those that run at most once."""
        found, seen, left = [], set(), [error]
        while left:
            error = left.pop()
            if error is None or id(error) in seen:
                continue
            seen.add(id(error))
            if id(error) in self._raised:
                found.append(self._raised[id(error)][0])
            left += [error.__cause__ or error.__context__, *getattr(error, "exceptions", ())]
        return [step_id for step_id in found if step_id not in self._once]

    def write_heartbeat(self, step: StepWrite, detail: Any) -> None:
        """Record how far a step has come."""
        text = self.measured(encode(detail, f"the heartbeat of step {step.id!r}"), "a heartbeat")
        with self._writing:
            known = step.id in self.history
            self.write(step._replace(status="started", heartbeat=text, known=known))

    def has_open_steps(self) -> bool:
        """Whether the run ends while something is still expected that nobody will ask for: that must not be kept."""
        now = self.now()
        locks = [record.id for record in self.history.values() if record.kind == "lock"]
        given_back = {record.id for record in self.history.values() if record.status == "completed"}
        if any(f"{step_id}{RELEASE}" not in given_back for step_id in locks):
            return True
        return any(
            record.status == "waiting" and (record.wake_at is None or record.wake_at > now or record.kind != "sleep")
            for record in self.history.values()
        )

    # ----------------------------------------------------------------- leaving

    def leave(self, unwind: Unwind) -> NoReturn:
        """Leave the body."""
        self.unwinding = unwind
        raise unwind

    def lose(self, *steps: StepWrite) -> NoReturn:
        """The fence stopped a write, of these steps. What came of them is kept, if the run was only stopped."""
        if self.reaching(lambda: self.store.is_held(self.link, self.fence)):
            self.keep_for_later(*steps)
            self.leave(Stopped(self.run_id))
        logger.warning("run %s: another worker has taken it over, this pass stops without an effect", self.run_id)
        self.leave(LeaseLost(self.run_id))

    def keep_for_later(self, *steps: StepWrite) -> None:
        """The run was stopped: what came of its functions is recorded when the pass has ended."""
        done = [step for step in steps if step.kind in _OF_FUNCTIONS and step.status != "started"]
        self._unrecorded |= {step.id: step for step in done}

    def hand_back(self) -> tuple[str, str] | None:
        """The pass is over, as the run was stopped or taken over: what is still to be recorded of it is. See
        :meth:`~celery_durable.store.recording.Recording.hand_back`."""
        steps, marks = self._unrecorded.values(), self._marks
        return self.store.hand_back(self.link, self.fence, steps, marks, self.patience)

    def leave_damaged(self, damaged: DamagedRecord, what: str, step_id: str = "") -> NoReturn:
        """Leave the body, as something of the run's record can't be read: the run is paused."""
        what = f"{what} {step_id!r}" if step_id else what
        self.leave(Damaged(f"{what} of run {self.run_id}: {damaged}. Mend the row, then resume the run"))

    def reading(self, what: str, step_id: str = "") -> Reading:
        """Here the run's record is read, and nothing of the user's is called: where it is damaged the run is paused."""
        return Reading(self, what, step_id)

    def stored(self, step_id: str) -> str:
        """The recorded result of a step. An empty text is none: it is damaged."""
        text = self.history[step_id].result
        return "null" if text is None else text

    @staticmethod
    def read(text: str | None) -> Any:
        return None if text is None else decode(text)

    @staticmethod
    def reason(error_text: str) -> str:
        """A recorded error in one line."""
        info = summary(error_text)
        return f"{info['type'].rpartition('.')[2]}: {info['message']}"[:200]
