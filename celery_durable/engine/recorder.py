"""What a pass writes: the steps of its run, under its fence, and what it knows of them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from sqlalchemy.exc import DBAPIError

from ..core.codec import decode, encode
from ..core.duration import SECOND
from ..core.faults import read_error, summary, write_error
from ..core.ids import fingerprint
from ..core.replay import Record
from ..errors import ConfigurationError, PayloadTooLarge, StepFailed
from ..store.link import Link
from ..store.records import Claim, StepWrite
from ..store.store import Store
from .control import DatabaseAway, LeaseLost, Unwind
from .settings import Settings

__all__ = ["Recorder"]

logger = logging.getLogger("celery_durable")

T = TypeVar("T")


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
        self._position = max((record.position for record in self.history.values()), default=-1) + 1
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

    def keep(self, step: StepWrite, write: Callable[[], bool]) -> None:
        """Do a write that records this step; whether it was kept is what it returns."""
        if not self.reaching(write):
            self.lose()
        self.remember(step)

    def reaching(self, operation: Callable[[], T]) -> T:
        """Do an operation of the store; leave the body where the database stays away."""
        try:
            return operation()
        except (DBAPIError, ConfigurationError) as error:
            self.leave(DatabaseAway(str(error)))

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

    def has_open_waits(self) -> bool:
        """Whether the run ends while something from outside is still expected: that must not be kept."""
        return any(record.kind == "wait" and record.status == "waiting" for record in self.history.values())

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
