"""What a pass writes: the steps of its run, under its fence, and what it knows of them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, NoReturn, TypeVar

from sqlalchemy.exc import DBAPIError

from ..core.codec import decode, encode
from ..core.duration import SECOND
from ..core.faults import bounded_error, read_error, summary
from ..core.ids import fingerprint
from ..core.replay import Record
from ..errors import ConfigurationError, PayloadTooLarge, StepFailed
from ..store.link import Link
from ..store.records import Aftermath, Changes, Claim, Overtaken, StepWrite
from ..store.store import Store
from .control import DatabaseAway, LeaseLost, Unwind
from .settings import Settings

__all__ = ["Recorder"]

logger = logging.getLogger("celery_durable")

T = TypeVar("T")

_OF_RECORD = tuple(field.name for field in fields(Record))


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
        self._began = time.monotonic()
        self._lease_until = claim.now + settings.lease
        self._asked: dict[str, int] = {}
        self._seen = max((abs(record.seen or 0) for record in self.history.values()), default=0)
        self._marks: dict[str, int] = {}
        self._writing = threading.RLock()
        self._raised: dict[int, tuple[str, BaseException]] = {}
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

    # --------------------------------------------------------------- recording

    def write(self, step: StepWrite) -> None:
        """Record a step's row, or find out that the run is not ours any more."""
        self.keep(step, lambda: self.store.record(self.link, self.fence, step, self.lease_until(), self.patience))

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
                self.lose()
            self.remember(*steps)
        elif steps or self._marks:
            self.change(Changes(steps=tuple(steps)))

    def change(self, changes: Changes) -> Aftermath | Overtaken:
        """Write what concerns others, too, and go on. What it leaves to be done is the caller's."""
        changes = self.with_marks(changes)
        found = self.reaching(
            lambda: self.store.change(self.link, self.fence, changes, self.lease_until(), self.patience)
        )
        if found is None:
            self.lose()
        if isinstance(found, Overtaken):
            self._marks |= dict(changes.marks)
        else:
            self.remember(*changes.steps)
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
            self.history[step_id] = replace(record, seen=self._marks[step_id])

    def next_place(self) -> int:
        """The place of one more answer in the order of all."""
        self._seen += 1
        return self._seen

    def keep(self, step: StepWrite, write: Callable[[], bool]) -> None:
        """Do a write that records this step; whether it was kept is what it returns."""
        if not self.reaching(write):
            self.lose()
        self.remember(step)

    def reaching(self, operation: Callable[[], T]) -> T:
        """Do an operation of the store, one at a time: branches on other threads send heartbeats. Leave the body
        where the database stays away."""
        try:
            with self._writing:
                return operation()
        except (DBAPIError, ConfigurationError) as error:
            self.leave(DatabaseAway(str(error)))

    def remember(self, *steps: StepWrite) -> None:
        """These rows are recorded: they are history from here on, also for this pass."""
        for step in steps:
            self.history[step.id] = Record(**{name: getattr(step, name) for name in _OF_RECORD})

    def settled(self, step: StepWrite, *, result: str | None = None, error: BaseException | None = None) -> StepWrite:
        """A step's row with its outcome."""
        return replace(
            step,
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
        return bounded_error(error, self.settings.max_payload, note)

    def new_step(self, step_id: str, kind: str, given: str, **values: Any) -> StepWrite:
        """A row for a step that has none, or the one that it has, to be changed."""
        known = self.history.get(step_id)
        return StepWrite(
            id=step_id,
            position=known.position if known else self._asked[step_id],
            kind=kind,
            input=given,
            input_hash=fingerprint(given),
            known=known is not None,
            **values,
        )

    def position_of(self, step_id: str) -> int:
        """The place of a step in the order in which this pass asks."""
        return self._asked[step_id]

    def take_position(self, step_id: str) -> int:
        """The place of something that nobody asks for, but that happens here in every pass."""
        return self._asked.setdefault(step_id, len(self._asked))

    def measured(self, text: str, what: str) -> str:
        """The text, unless it is larger than a stored value may be."""
        if len(text) > self.settings.max_payload:
            raise PayloadTooLarge(
                f"{what} of run {self.run_id} takes {len(text):,} bytes, and durable_max_payload is "
                f"{self.settings.max_payload:,}. Store it elsewhere and hand over where it is, or raise the setting."
            )
        return text

    def error_of(self, step_id: str, otherwise: type[Exception] = StepFailed) -> BaseException:
        """The recorded error of a step, to be raised into the body."""
        text = self.history[step_id].error
        assert text is not None
        error = read_error(text, otherwise)
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
        with self._writing:
            known = step.id in self.history
            self.write(replace(step, status="started", heartbeat=text, known=known))

    def has_open_steps(self) -> bool:
        """Whether the run ends while something is still expected that nobody will ask for: that must not be kept."""
        now = self.now()
        return any(
            record.status == "waiting" and (record.wake_at is None or record.wake_at > now or record.kind != "sleep")
            for record in self.history.values()
        )

    # ----------------------------------------------------------------- leaving

    def leave(self, unwind: Unwind) -> NoReturn:
        """Leave the body."""
        self.unwinding = unwind
        raise unwind

    def lose(self) -> NoReturn:
        """The fence stopped a write."""
        logger.warning("run %s: another worker has taken it over, this pass stops without an effect", self.run_id)
        self.leave(LeaseLost(self.run_id))

    @staticmethod
    def read(text: str | None) -> Any:
        return None if text is None else decode(text)

    @staticmethod
    def reason(error_text: str) -> str:
        """A recorded error in one line."""
        info = summary(error_text)
        return f"{info['type'].rpartition('.')[2]}: {info['message']}"[:200]
