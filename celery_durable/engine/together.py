"""Bringing the branches of a block to their answers.

In turns: look at every branch that is to be at work, begin what can begin (functions on threads of this worker, calls
and waits in the database), and record what has ended, all that is ready together as one. When nothing is at work in
this worker any more, the run is parked until something that it waits for comes; the next pass finds the block where
this one left it, by the same records.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..core.duration import SECOND
from ..store.records import Aftermath, Overtaken, StepWrite
from .block import Group, Leaf
from .branch import Act, Branch, Done, Ready, Waiting, openings
from .control import Stopped, Unwind
from .crew import Crew, Job
from .passing import Pass

__all__ = ["settle_block"]

_MOST_AT_ONCE = 100
"""Functions of one block that run at once where no limit is given."""
_LOOK_EVERY = 0.5
"""Seconds between looks for answers from outside while functions of the block still run here."""


def settle_block(run: Pass, group: Group) -> None:
    """Bring a block to its end, or leave the body until there is more to do."""
    _Together(run, group).work()
    group.close()
    error = group.failure()
    if error is not None:
        raise error


class _Together:
    """The work on one block in one pass."""

    def __init__(self, run: Pass, group: Group) -> None:
        self.run = run
        self.group = group
        self.crew = Crew(uses_threads=run.uses_threads)
        self.ready: dict[str, Ready] = {}
        self.waiting: dict[str, tuple[Branch, Waiting]] = {}
        self.open = list(group.leaves())
        """The branches that can have got an answer since the last look; at the first look, all."""
        self.held: list[StepWrite] = []
        """What has ended and is recorded with the end of the block."""

    def work(self) -> None:
        try:
            self._work()
        except Stopped:
            self._see_off()
            raise
        except BaseException:
            self._abandon(list(self.crew.busy))
            raise

    def _work(self) -> None:
        while not self._is_over():
            if self._look():
                continue
            if self.ready and not self._is_full():
                self._begin()
            elif self.crew.busy:
                self._open_and_wait()
            else:
                self._park()
        self._end()

    # -------------------------------------------------------------------- look

    def _is_over(self) -> bool:
        """Whether the answers that there are decide. Those from outside get their place in the order here."""
        done = [leaf.branch for leaf in self.open if leaf.branch.is_done()]
        self._number(done)
        self._check_cancelled(done)
        self._give_up_inner()
        return self.group.verdict() is not None

    def _give_up_inner(self) -> None:
        """Blocks in this one that are over: a race's functions are abandoned, and whatever waits is withdrawn."""
        inner = [member for member in self.group.members if isinstance(member, Group)]
        lost = [found for group in inner for found in group.lost() if not found[0].branch.is_done()]
        self._abandon([leaf.id for leaf, at_once in lost if at_once and leaf.id in self.crew.busy])
        self._withdraw([leaf.branch for leaf, _ in lost if leaf.id not in self.crew.busy])

    def _number(self, done: Iterable[Branch]) -> None:
        history = self.run.history
        fresh = [branch for branch in done if history[branch.id].seen is None]
        for branch in sorted(fresh, key=lambda branch: _ended_at(self.run, branch)):
            self.run.note_seen(branch.id)

    def _check_cancelled(self, done: Iterable[Branch]) -> None:
        """A branch that cancels the run (an ``on_timeout``) does so whatever the block's policy is."""
        for branch in done:
            if branch.cancels() is not None:
                self._wait_for_functions()
                self._withdraw([other.branch for other in self.group.leaves() if not other.branch.is_done()])
                branch.answer()

    def _look(self) -> bool:
        """See what each branch needs; whether something was done about one, so that the others may need another."""
        self.ready, self.waiting = {}, {}
        self.open = list(self.group.wanted())
        for leaf in self.open:
            if leaf.id in self.crew.busy or (leaf.branch.works_here and self._has_enough()):
                continue
            with self.run.reading("step", leaf.id):
                state = leaf.branch.look()
            if isinstance(state, Done):
                return True
            if self.run.check_cancelling(leaf.branch, *self._undone_but(leaf)):
                return True
            if isinstance(state, Act):
                state.do()
                return True
            if isinstance(state, Ready):
                self.ready[leaf.id] = state
            else:
                self.waiting[leaf.id] = (leaf.branch, state)
        return False

    def _undone_but(self, leaf: Leaf) -> list[Branch]:
        if self.run.is_to_end() is None:
            return []
        return [other.branch for other in self.group.leaves() if other is not leaf and not other.branch.is_done()]

    def _is_full(self) -> bool:
        return len(self.crew.busy) >= _MOST_AT_ONCE or self.run.dispatcher.stopping()

    def _has_enough(self) -> bool:
        """Whether more functions are ready than can begin now."""
        return len(self.ready) + len(self.crew.busy) >= _MOST_AT_ONCE

    # -------------------------------------------------------------------- work

    def _begin(self) -> None:
        """Start functions; first, in one transaction, record what has to be before they are."""
        attempts = {step_id: state.attempt for step_id, state in self.ready.items()}
        branches = {leaf.id: leaf.branch for leaf in self.open}
        started = [row for attempt in attempts.values() if (row := attempt.begin()) is not None]
        if started:
            self.run.write_all(started)
        for step_id, attempt in attempts.items():
            self.crew.start(branches[step_id], attempt)

    def _open_and_wait(self) -> None:
        """Functions are at work here: begin what others do beside them, and wait for whatever ends first."""
        opening = [state for _, state in self.waiting.values() if state.opening is not None]
        if opening:
            found = self.run.change(openings(opening))
            if isinstance(found, Overtaken):
                self.run.adopt(found, [branch for branch, _ in self.waiting.values()])
                return
            assert isinstance(found, Aftermath)
            self.run.dispatcher.follow(found)
        self._record(self.crew.ended(self._patience()))
        self._hear()

    def _patience(self) -> float | None:
        """Seconds until something else than the end of a function is to be looked at."""
        limits = [_LOOK_EVERY] if any(state.outside for _, state in self.waiting.values()) else []
        ends = [state.until for _, state in self.waiting.values() if state.until is not None]
        if ends:
            limits.append(max(0.001, (min(ends) - self.run.now()) / SECOND))
        return min(limits, default=None)

    def _hear(self) -> None:
        """What has come from outside meanwhile."""
        run = self.run
        outside = [branch.id for branch, state in self.waiting.values() if state.outside]
        if outside and self.crew.busy:
            records = run.reaching(lambda: run.store.settled(run.link, run.run_id, outside))
            run.adopt(Overtaken(records), [])

    def _record(self, jobs: list[Job]) -> None:
        rows = []
        for job in jobs:
            job.raise_error()
            row = job.attempt.conclude()
            if row is not None:
                rows.append(row)
        # What ends the block is recorded with the ends of those that are at work still: a worker that dies in
        # between would leave them unheard of, and a replay would not ask.
        self.run.remember(*rows)
        self.held += rows
        if not self.crew.busy or self.group.policy.first or self.group.verdict() is None:
            held, self.held = self.held, []
            self.run.write_all(held)

    def _park(self) -> None:
        if not self.waiting or self.ready:
            self.run.check_stopping()
        waiting = list(self.waiting.values())
        needs_all = self.group.needs_all()
        quorum = None
        if needs_all:
            quorum = sum(1 for _, state in waiting if state.outside)
            waiting = _without_early_sleeps(waiting)
        self.run.park_for(waiting, quorum)

    # --------------------------------------------------------------------- end

    def _end(self) -> None:
        """The block is over: functions that are at work are waited for, unless it is a race; all else is given up."""
        self._wait_for_functions()
        self._withdraw([leaf.branch for leaf in self.group.leaves() if not leaf.branch.is_done()])

    def _wait_for_functions(self) -> None:
        if not self.group.policy.first:
            while self.crew.busy:
                self._record(self.crew.ended(None))
        self._abandon(list(self.crew.busy))
        if self.held:
            held, self.held = self.held, []
            self.run.write_all(held)

    def _see_off(self) -> None:
        """The run was stopped: the functions that are at work are let finish, and what comes of them is kept."""
        run = self.run
        run.keep_for_later(*self.held)
        while self.crew.busy and not self.group.policy.first:
            for job in self.crew.ended(None):
                try:
                    job.raise_error()
                    row = job.attempt.conclude()
                except Unwind:  # it has sent a heartbeat, or was a transaction: nothing is left of it
                    continue
                if row is not None:
                    run.keep_for_later(row)
        self._abandon(list(self.crew.busy))

    def _abandon(self, ids: list[str]) -> None:
        for step_id in ids:
            self.crew.busy.pop(step_id).attempt.abandon()

    def _withdraw(self, branches: list[Branch]) -> None:
        rows = [row for branch in branches if (row := branch.cancelled_row()) is not None]
        if rows:
            self.run.withdraw(rows)


def _ended_at(run: Pass, branch: Branch) -> tuple[int, int]:
    record = run.history[branch.id]
    ended = record.wake_at if record.kind == "sleep" and record.status == "waiting" else record.finished_at
    return (ended or 0, record.position)


def _without_early_sleeps(waiting: list[tuple[Branch, Waiting]]) -> list[tuple[Branch, Waiting]]:
    """Where all have to end: of plain sleeps only the longest is a reason to look."""
    sleeps = [state.until for branch, state in waiting if branch.kind == "sleep" and state.until is not None]
    longest = max(sleeps, default=None)
    return [
        (branch, Waiting(longest, state.what, state.opening) if branch.kind == "sleep" else state)
        for branch, state in waiting
    ]
