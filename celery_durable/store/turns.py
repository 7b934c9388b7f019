"""Turns: who holds a lock by ``step.lock``, and who is next.

A lock is free while nobody holds it and nobody waits; then whoever asks has it at once. Else one stands in line, and
waits as for an event: whoever gives the lock back lets the first in the line have it, and records that as the answer
of the waiting step. That is done after the transaction in which the lock was given back; where it is not done, or where
the time of a holder is up, the sweeper does it. So the order of locks is always: gate, then run.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from ..statuses import FINISHED
from .base import SOON
from .gates import Gated
from .link import Link
from .recording import Recording
from .records import Aftermath, Fence, NewTurn, StepWrite

__all__ = ["FOREVER", "Turns", "of_turn"]

FOREVER = 2**62
"""Until when a lock without a ttl is held."""
_IN_LINE = 20
"""How many in a line are looked at for the one that is next: others may have ended meanwhile."""


class Turns(Recording, Gated):
    """Taking a lock, giving it back, and letting the next one have it."""

    def take_turn(
        self, link: Link, fence: Fence, step: StepWrite, turn: NewTurn, lease_until: int, patience: float = 0.0
    ) -> bool | None:
        """Take a lock and record the step that does, in one transaction. ``False``: it is not free; ``None``: the
        lease is lost."""

        def take(connection: Connection) -> bool | None:
            at_run = {"at_id": fence.run_id, "at_token": fence.token, "lease_until": lease_until}
            try:
                with link.atomic(connection):
                    self._shut(connection, "turn", turn.name)
                    if self._count(connection, self.statements.fence, at_run) != 1:
                        return None
                    if not self._is_free(connection, turn.name, fence.run_id, step.id):
                        return False
                    self._do(connection, self.statements.forget_holders, {"at_name": turn.name})
                    self._do(connection, self.statements.insert_turn, of_turn(fence, step.id, turn, held=True))
                    self._write_steps(connection, fence, [step])
                return True
            except IntegrityError:  # of the turn or the step: an earlier try, whose answer was lost
                return self._status_of(connection, fence.run_id, step.id) == step.status

        return link.run(take, patience)

    def _is_free(self, connection: Connection, name: str, run_id: str, step_id: str) -> bool:
        """Whether nobody else has it, or stands in line for it. Behind its gate."""
        values = {"at_name": name, "at_id": run_id, "at_step": step_id}
        return self._do(connection, self.statements.others_in_line, values).first() is None

    def give_back(
        self, link: Link, fence: Fence, step: StepWrite, of_step: str, lease_until: int, patience: float = 0.0
    ) -> Aftermath | None:
        """Give a lock back and record the step that does. ``None``: the lease is lost."""

        def give(connection: Connection) -> Aftermath | None:
            try:
                with link.atomic(connection):
                    if not self.record_within(self._on(connection), fence, step, lease_until):
                        return None
                    return self._leave_line(connection, fence.run_id, [of_step])
            except IntegrityError:  # as above; who is next the sweeper finds out
                return Aftermath() if self._status_of(connection, fence.run_id, step.id) else None

        return link.run(give, patience)

    def _leave_line(self, connection: Connection, run_id: str, steps: Sequence[str]) -> Aftermath:
        """These steps have no lock, and wait for none, any more."""
        at_steps = {"at_id": run_id, "ids": list(steps)}
        names = self._do(connection, self.statements.turns_of_steps, at_steps).scalars()
        self._do(connection, self.statements.drop_turns_of_steps, at_steps)
        return Aftermath(freed=tuple(names))

    def _leave_lines(self, connection: Connection, run_ids: Sequence[str]) -> Aftermath:
        """These runs have no lock, and wait for none, any more."""
        names = self._do(connection, self.statements.turns_of_runs, {"ids": list(run_ids)}).scalars()
        if names:
            self._do(connection, self.statements.drop_turns_of_runs, {"ids": list(run_ids)})
        return Aftermath(freed=tuple(names))

    def next_turn(self, link: Link, name: str) -> str | None:
        """Let the first in the line have a lock that is free; the run that is to be told."""

        def grant(connection: Connection) -> str | None:
            with link.atomic(connection):
                self._shut(connection, "turn", name)
                at_name = {"at_name": name}
                if self._do(connection, self.statements.held, at_name).first() is not None:
                    return None
                self._do(connection, self.statements.forget_holders, at_name)
                waiting = self._do(connection, self.statements.in_line_for, {**at_name, "limit": _IN_LINE}).rows
                for turn in waiting:
                    status = self._do(connection, self.statements.lock_parent, {"at_id": turn.run_id}).scalar()
                    at_step = {"at_id": turn.run_id, "at_step": turn.step_id}
                    if status == "paused":
                        continue  # it would keep it from all others for as long as it is
                    if status is None or status in FINISHED:
                        self._do(connection, self.statements.drop_turn, at_step)
                        continue
                    self._do(connection, self.statements.grant, {**at_step, "held_for": turn.ttl or FOREVER})
                    self._do(connection, self.statements.answer_turn, at_step)
                    if status != "suspended":
                        return None
                    self._do(connection, self.statements.wake_runs, {"ids": [turn.run_id], "due_in": SOON})
                    return str(turn.run_id)
                return None

        return link.run(grant)

    def free_locks(self, link: Link, limit: int) -> list[str]:
        """The locks that nobody holds and somebody waits for: who gave them back has died, or their time is up."""
        return [row.name for row in self._rows(link, self.statements.free_locks, {"limit": limit})]


def of_turn(fence: Fence, step_id: str, turn: NewTurn, *, held: bool) -> dict[str, object]:
    """The values of a turn's row."""
    return {
        "turn_run": fence.run_id,
        "turn_step": step_id,
        "turn_name": turn.name,
        "turn_ttl": turn.ttl,
        "turn_held": (turn.ttl or FOREVER) if held else None,
    }
