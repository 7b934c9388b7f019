"""The verbs that the tasks of an event loop await, and the order in which they get their answers."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass
from typing import Any

from ..store.records import Aftermath, Overtaken, StepWrite
from .branch import Branch, Waiting, openings
from .loop import Clock, PassLoop, Timer
from .passing import Pass
from .waits import Held, what_holds

__all__ = ["LOOK_EVERY", "RECORD", "Open", "Turns"]

LOOK_EVERY = 0.5
"""Seconds between looks for answers from outside while something is at work here."""

RECORD = Waiting(None, "its record")


@dataclass(eq=False)
class Open:
    """A verb that some task awaits."""

    branch: Branch
    future: asyncio.Future[None]
    waiting: Waiting | None = None
    """What it waits for; ``None`` where it waits for its turn."""


class Turns:
    """What is awaited in one pass."""

    def __init__(self, run: Pass) -> None:
        self.run = run
        self.clock = Clock(run.claim.started_at, run.now)
        self.loop = PassLoop(self.clock, run.store.steady)
        self._open: dict[str, Open] = {}
        self._at_work: set[asyncio.Task[Any]] = set()
        self._ended: list[StepWrite] = []
        self._given_up: list[StepWrite] = []
        self._rung: list[StepWrite] = []
        self._unseen = {record.id: abs(record.seen) for record in run.history.values() if record.seen is not None}
        """The answers that the body of this pass has not been given yet, by their places in the order."""
        self._threads = set(threading.enumerate())
        self._closing = False
        self._heard_at = 0.0

    def futures(self) -> set[asyncio.Future[None]]:
        """What is awaited of durable things."""
        return {opened.future for opened in self._open.values()}

    # ----------------------------------------------------------------- waiting

    async def _turn(self, branch: Branch) -> None:
        """Wait until all answers have been handed over that come before this one."""
        alone = len(self.loop.tasks) == 1 and not self._open and not self.loop.timers()
        if alone and not self._is_given_up(branch):
            self._unseen.pop(branch.id, None)  # there is nothing else that it could come before or after
            self.clock.advance(self._time_of(branch))
            return
        seen = self.run.history[branch.id].seen
        if seen is not None:
            self._unseen.setdefault(branch.id, abs(seen))
        await self._wait(branch, None)

    def _time_of(self, branch: Branch) -> float:
        record = self.run.history[branch.id]
        return self.clock.at(record.finished_at or record.wake_at or 0)

    async def _wait(self, branch: Branch, waiting: Waiting | None) -> None:
        opened = Open(branch, self.loop.create_future(), waiting)
        self._open[branch.id] = opened
        try:
            await opened.future
        finally:
            if self._open.get(branch.id) is opened:
                del self._open[branch.id]

    def _give_up(self, branch: Branch) -> None:
        """A verb is cancelled by asyncio: it is given up, for good. Also one that has its answer, of which the body has
        not been told: whatever cancels it in a replay has cancelled it in the first pass, before that answer's turn.
        Were it told now all the same, the loser of a race would go on as if it had won."""
        run = self.run
        if run.unwinding is not None or self._closing:
            return
        record = run.history.get(branch.id)
        if record is None or record.status in ("waiting", "started"):
            ended = [row for row in self._ended if row.id == branch.id]
            self._ended = [row for row in self._ended if row.id != branch.id]
            self._given_up += [row._replace(seen=-run.next_place()) for row in ended] or [branch.given_up_row()]
            return
        self._unseen.pop(branch.id, None)
        if not self._is_given_up(branch) and branch.cancels() is None:
            run.note_seen(branch.id, withdrawn=True)
            branch.refuse()

    def _is_given_up(self, branch: Branch) -> bool:
        record = self.run.history[branch.id]
        return record.status == "cancelled" or (record.seen or 0) < 0

    # --------------------------------------------------------------- answering

    def _hand_over(self) -> bool:
        """Hand over the next answer that has its place in the order, or let the next timer ring that has."""
        timers = {timer.name: timer for timer in self.loop.timers() if timer.name in self._unseen}
        places = {self._unseen[name]: name for name in (*self._open, *timers) if name in self._unseen}
        if not places:
            return False
        first = min(places)
        if first > min(self._unseen.values()) and self._may_come_first():
            return False
        next_id = places[first]
        at = timers[next_id].when() if next_id in timers else self._time_of(self._open[next_id].branch)
        if self._let_sleepers_ring(at):
            return True
        self.clock.advance(at)
        del self._unseen[next_id]
        if next_id in timers:
            self.run.take_position(next_id)
            self.loop.ring(timers[next_id])
        elif self._open[next_id].branch.cancels() is not None:
            self._open[next_id].branch.answer()  # raises, for the body as a whole
        elif self._is_given_up(self._open[next_id].branch):
            self._open[next_id].future.cancel()  # what gave it up is not to be seen: a callback of the body's
        else:
            self._open[next_id].future.set_result(None)
        return True

    def _let_sleepers_ring(self, until: float) -> bool:
        """While the clock is frozen: let the first ``asyncio.sleep`` end that ends before this time."""
        sleepers = [timer for timer in self.loop.timers() if timer.name is None]
        if not self.clock.frozen or not sleepers or sleepers[0].when() > until:
            return False
        self.clock.advance(sleepers[0].when())
        self.loop.ring(sleepers[0])
        return True

    def _let_due_ring(self) -> bool:
        """Let the first timer ring that is due: like an answer, alone, when all tasks wait."""
        due = self.loop.take_due()
        if due is None:
            return False
        self._rang(due)
        self.loop.ring(due)
        return True

    def rings_late(self, timer: Timer) -> None:
        """A timer rings that could not wait any longer: there has always been something else to hand over. What has its
        place, and was not told yet, comes after it now."""
        self._rang(timer)
        told_later = [
            (self._unseen[step_id], step_id)
            for step_id, opened in self._open.items()
            if step_id in self._unseen and not self._is_given_up(opened.branch)
        ]
        for _, step_id in sorted(told_later):
            self._unseen[step_id] = self.run.place_anew(step_id)
        self._ended = [row if row.seen is None else row._replace(seen=self.run.next_place()) for row in self._ended]

    def _hand_over_fresh(self) -> bool:
        """Hand over the first of the answers that have no place in the order yet: now they get it, after all that have
        one. A timer that was to ring before it came rings first."""
        fresh = [
            (self._time_of(opened.branch), self.run.history[step_id].position, step_id)
            for step_id, opened in self._open.items()
            if opened.branch.is_done() and step_id not in self._unseen and not opened.future.done()
        ]
        if not fresh or (self._unseen and self._may_come_first()):
            return False
        at, _, step_id = min(fresh)
        timers = self.loop.timers()
        if self.clock.frozen and timers and timers[0].when() <= at:
            self.clock.advance(timers[0].when())
            self._rang(timers[0])
            self.loop.ring(timers[0])
            return True
        self.clock.advance(at)
        self.run.note_seen(step_id)
        self._open[step_id].future.set_result(None)
        return True

    def _rang(self, timer: Timer) -> None:
        """A timer rings, for the first time: that has its place in the order."""
        run = self.run
        if timer.name is not None and timer.name not in run.history:
            instant = self.clock.instant(timer.when())
            self._rung.append(
                StepWrite(
                    timer.name, run.take_position(timer.name), "timer", "completed", result="null", attempts=1,
                    seen=run.next_place(), started_at=instant, finished_at=run.now(),
                )
            )  # fmt: skip

    def _may_come_first(self) -> bool:
        """Whether a step that came before this one may still be asked for: something un-stepped is under way. A step
        that is at work is not that, as what is asked for because of it comes after all that is recorded."""
        if not self.clock.frozen:
            return False
        if any(timer.name is None for timer in self.loop.timers()):
            return True
        return what_holds(self.loop, self.futures() | self._at_work, self._threads) is Held.OUTSIDE

    def _record(self) -> bool:
        """Record what has ended here. It is handed over in its turn."""
        ended = bool(self._ended)
        self._flush()
        return ended

    def _flush(self) -> None:
        """Record what has ended, was given up and has rung; before anything else is written that may follow from it."""
        ended = self._ended
        rows = [*self._rung, *self._given_up, *ended]
        self._ended, self._given_up, self._rung = [], [], []
        self.run.withdraw(rows, unheard=True)
        for row in ended:
            seen = self.run.history[row.id].seen
            if seen is not None:
                self._unseen[row.id] = seen
            elif row.id in self._open:  # it is to be tried again
                self._open[row.id].future.set_result(None)

    def _wake_due(self) -> bool:
        """Let those look again whose time has come."""
        now, woken = self.run.now(), False
        for opened in list(self._open.values()):
            until = opened.waiting.until if opened.waiting is not None else None
            if until is not None and until <= now and not opened.future.done():
                opened.future.set_result(None)
                woken = True
        return woken

    # ------------------------------------------------------------ from outside

    def _open_and_hear(self) -> bool:
        """Begin what others do meanwhile, and hear of what they have done."""
        run = self.run
        waiting = [opened for opened in self._open.values() if opened.waiting is not None]
        new = [opened for opened in waiting if opened.waiting is not None and opened.waiting.opening is not None]
        if new:
            found = run.change(openings([opened.waiting for opened in new if opened.waiting is not None]))
            if isinstance(found, Overtaken):
                run.adopt(found, [opened.branch for opened in new])
            else:
                assert isinstance(found, Aftermath)
                run.dispatcher.follow(found)
            for opened in new:
                opened.future.set_result(None)  # it looks again, and waits for what is registered now
            return True
        outside = [opened.branch.id for opened in waiting if opened.waiting is not None and opened.waiting.outside]
        if not outside or time.monotonic() - self._heard_at < LOOK_EVERY:
            return False
        self._heard_at = time.monotonic()
        records = run.reaching(lambda: run.store.settled(run.link, run.run_id, outside))
        run.adopt(Overtaken(records), [])
        for record in records:
            self._open[record.id].future.set_result(None)
        return bool(records)

    def _park(self) -> None:
        waiting = [(opened.branch, opened.waiting) for opened in self._open.values() if opened.waiting is not None]
        timers = self.loop.timers()
        self.run.park_for(waiting, also_at=self.clock.instant(timers[0].when()) if timers else None)
        self._look_again()  # something has come

    def _look_again(self) -> None:
        for opened in self._open.values():
            if not opened.future.done():
                opened.future.set_result(None)
