"""Sleeps as steps."""

from __future__ import annotations

from typing import Any

from ..core.codec import encode
from ..core.duration import SECOND, Duration, Moment, as_datetime, describe, micros, moment
from ..core.replay import Park, Replay
from ..store.records import StepWrite
from .branch import DONE, Act, Branch, Opening, State, Waiting
from .passing import Pass

__all__ = ["Sleep"]


class Sleep(Branch):
    """``step.sleep`` and ``step.sleep_until``. The end is fixed at the first pass, whatever later ones ask for."""

    kind = "sleep"

    def __init__(self, run: Pass, id: str, given: str, *, lasting: int | None = None, till: int | None = None) -> None:
        super().__init__(run, run.take_id(id), given)
        self._lasting = lasting
        self._till = till

    @classmethod
    def lasting(cls, run: Pass, id: str, duration: Duration) -> Sleep:
        length = micros(duration)
        return cls(run, id, f'{{"seconds":{length / SECOND!r}}}', lasting=length)

    @classmethod
    def till(cls, run: Pass, id: str, when: Moment) -> Sleep:
        wake_at = moment(when)
        return cls(run, id, encode({"until": as_datetime(wake_at)}), till=wake_at)

    @property
    def what(self) -> str:
        """What the run waits for, as people read it."""
        if self._lasting is not None:
            return f"the sleep {self.id!r} ({describe(self._lasting)})"
        return f"the sleep {self.id!r} ({as_datetime(self._till or 0).isoformat()})"

    def look(self) -> State:
        decision = self.ask()
        if isinstance(decision, Replay):
            return DONE
        if isinstance(decision, Park):
            return Waiting(decision.wake_at, self.what)
        run, now = self.run, self.run.now()
        wake_at = now + self._lasting if self._lasting is not None else self._till or 0
        step = self.new_row(status="waiting", wake_at=wake_at, started_at=now, attempts=1)
        if wake_at <= now:
            return Act(lambda: run.write_all([self._over(step)]))
        return Waiting(wake_at, self.what, Opening(step))

    def _over(self, step: StepWrite) -> StepWrite:
        now = self.run.now()
        return step._replace(
            status="completed", wake_at=None, finished_at=now, result="null", seen=self.run.next_place()
        )

    def value(self) -> Any:
        return None
