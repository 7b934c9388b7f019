"""What runs are to do, told without the package's code: their statuses, what is kept of them, who did what to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from celery_durable.core.duration import SECOND

__all__ = ["ENDED", "HOUR", "OPEN", "Modelled", "Verb"]

HOUR = 3_600 * SECOND
ENDED = ("completed", "failed", "cancelled")
OPEN = ("pending", "running", "suspended")

Verb = Literal["step", "fail", "wait", "sleep", "call", "undo", "again"]


@dataclass
class Modelled:
    """One run. Its body asks by each of its verbs in turn, under the id of its place."""

    id: str
    script: tuple[Verb, ...]
    created: int
    timeout: int | None = None
    parent: tuple[str, str] | None = None
    number: int = 0
    """Its argument: how often it has begun again."""
    status: str = "pending"
    cancelling: bool = False
    passes: int = 0
    begun: int = 0
    """When its time began to be counted."""
    deadline: int | None = None
    wake_at: int | None = None
    lease: int = 0
    """When the lease of the worker ends that has it."""
    under_way: bool = False
    """It was stopped, and the worker that had it may have a step under way."""
    finished: int = 0
    done: set[str] = field(default_factory=set)
    sleeps: dict[str, int] = field(default_factory=dict)
    waits: set[str] = field(default_factory=set)
    calls: dict[str, str] = field(default_factory=dict)
    """Calls that wait for their answer, each with the run that was called."""
    lost: set[str] = field(default_factory=set)
    """Calls whose run has failed, or was cancelled."""
    failed: set[str] = field(default_factory=set)
    stopped: str | None = None
    """How it ends where it was stopped in its body."""
    rolling: str | None = None
    """How it ends, once its rollback has begun."""
    rolled: bool = False
    events: int = 0
    """Events for it that it has not had yet."""
    deeds: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begun = self.created

    # ---------------------------------------------------------------- passes

    def is_claimable(self, now: int) -> bool:
        return self.status in ("pending", "suspended") and (self.wake_at is None or self.wake_at <= now)

    def claim(self, lease: int) -> None:
        self.status, self.passes, self.lease, self.under_way = "running", self.passes + 1, lease, False
        if self.timeout is not None:
            self.deadline = self.deadline or self.begun + self.timeout

    def let_go(self) -> None:
        """The worker that had it when it was stopped has ended its step."""
        self.under_way, self.wake_at = False, None

    def run(self, now: int, clock: int, healthy: bool, call: Callable[[Modelled, str], None]) -> None:
        """What one pass comes to, whose own clock stands at ``now``. ``call`` is told what the run calls."""
        undos = False
        for place, verb in enumerate(self.script):
            name = f"{place}"
            if verb == "undo":
                undos = True
            elif verb == "again" and self.number == 0:
                return self._begin_again(clock)
            elif verb != "again" and not self._is_over(name, now):
                how = self._stop(name, now)
                if how is None:
                    how = self._ask(verb, name, now, healthy, call)
                if how is None:
                    self._park(name)
                    return None
                if how:
                    return self._end(how, now, undos)
        how = self.rolling or ("cancelled" if self.cancelling else "completed")
        return self._end(how, now, undos and how != "completed")

    def _is_over(self, name: str, now: int) -> bool:
        return name in self.done or self.sleeps.get(name, now + 1) <= now

    def _stop(self, name: str, now: int) -> str | None:
        """How the run is stopped at this place, which has no answer yet, if it is."""
        if self.stopped is not None:
            return self.stopped
        if name in self.failed:
            return "failed"
        if self.rolling is not None:
            return self.rolling
        if self.cancelling:
            return "cancelled"
        if self.deadline is not None and self.deadline <= now:
            self.failed.clear()  # there is no step to be done anew
            return "failed"
        return None

    def _ask(self, verb: Verb, name: str, now: int, healthy: bool, call: Callable[[Modelled, str], None]) -> str | None:
        """Do what is new at this place: ``""`` where the body goes on, ``None`` where it parks."""
        if verb == "step" or (verb == "fail" and healthy):
            self.done.add(name)
            return ""
        if verb == "fail" or name in self.lost:
            self.lost.discard(name)
            self.failed.add(name)
            return "failed"
        if verb == "wait" and name not in self.waits:
            if self.events:
                self.events -= 1
                self.done.add(name)
                return ""
            self.waits.add(name)
        elif verb == "sleep":
            self.sleeps.setdefault(name, now + HOUR)
        elif verb == "call" and name not in self.calls:
            self.calls[name] = "?"
            call(self, name)
        return None

    def _park(self, name: str) -> None:
        self.status = "suspended"
        ends = [end for end in (self.sleeps.get(name), self.deadline) if end is not None]
        self.wake_at = min(ends, default=None)

    def _begin_again(self, now: int) -> None:
        self.number, self.status, self.wake_at, self.begun, self.deadline = 1, "suspended", now, now, None
        for kept in (self.done, self.sleeps, self.waits, self.calls, self.lost, self.failed):
            kept.clear()

    def _end(self, how: str, now: int, rolled: bool) -> None:
        self.status, self.finished, self.wake_at = how, now, None
        self.rolled, self.under_way = rolled and how != "completed", False
        self.stopped = self.rolling = None
        self.waits.clear()

    # ------------------------------------------------------------- operations

    def cancel(self, now: int, force: bool) -> str:
        """``done``, ``nothing`` or ``wrong``."""
        if self.status in ENDED:
            return "nothing" if self.status == "cancelled" else "wrong"
        if self.cancelling and not force and self.passes:
            return "nothing"
        self.deeds.append("cancel")
        self.be_cancelled(now, force)
        return "done"

    def be_cancelled(self, now: int, force: bool = False) -> None:
        if self.status in ENDED:
            return
        if force or not self.passes:
            self._end("cancelled", now, self.rolling is not None)
        elif not self.cancelling:
            self._stop_at(now)
            self.status, self.cancelling = "suspended", True

    def _stop_at(self, now: int) -> None:
        """A worker that executes it is let finish its step."""
        if self.status == "running":
            self.under_way, self.wake_at = True, self.lease
        elif self.status == "paused" and (self.wake_at or 0) <= now:
            self.under_way = False
        if not self.under_way:
            self.wake_at = None

    def pause(self) -> str:
        if self.status not in OPEN:
            return "nothing" if self.status == "paused" else "wrong"
        self._stop_at(0)
        self.status = "paused"
        self.deeds.append("pause")
        return "done"

    def resume(self, now: int) -> str:
        if self.status != "paused":
            return "nothing" if self.status in OPEN else "wrong"
        if self.passes and self.deadline is None:
            self.begun = now  # it has begun again, and nobody has taken it since
        self._stop_at(now)
        self.status = "suspended" if self.passes else "pending"
        self.deeds.append("resume")
        return "done"

    def retry(self, now: int) -> str:
        if self.status == "paused":
            return self.resume(now)
        if self.status != "failed" or self.rolled:
            return "nothing" if self.status in OPEN else "wrong"
        self.status, self.wake_at, self.begun, self.deadline, self.cancelling = "suspended", now, now, None, False
        self.failed.clear()
        self.calls.clear()
        self.deeds.append("retry")
        return "done"

    def recover(self) -> bool:
        if self.status != "running":
            return False
        self.status, self.wake_at = "suspended", None
        return True

    # ------------------------------------------------------------- from outside

    def emit(self) -> None:
        """An event for it."""
        for name in sorted(self.waits):
            self.waits.discard(name)
            self.done.add(name)
            self._wake()
            return
        self.events += 1

    def answer(self, name: str, child: Modelled) -> None:
        """What it has called has ended."""
        if self.status in ENDED or self.calls.get(name) != child.id:
            return
        del self.calls[name]
        (self.done if child.status == "completed" else self.lost).add(name)
        self._wake()

    def _wake(self) -> None:
        if self.status == "suspended" and not self.under_way:
            self.wake_at = None

    def copy(self, run_id: str, now: int, before: int) -> Modelled:
        """A new run with what it had before that place."""
        kept = {name for name in self.done if int(name) < before}
        over = {name: until for name, until in self.sleeps.items() if until <= now and int(name) < before}
        new = Modelled(run_id, self.script, now, self.timeout)
        return replace(new, number=self.number, done=kept, sleeps=over)

    @property
    def recorded(self) -> set[str]:
        """The places that have a row, whatever came of them."""
        return self.done | set(self.sleeps) | self.waits | set(self.calls) | self.lost | self.failed
