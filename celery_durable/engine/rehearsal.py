"""Rehearsals: a run's history, replayed against the code as it is now. Nothing is executed, and nothing is written.

A rehearsal is a pass that leaves the body where it would do something new: each write of a pass goes through one
method, and so does the beginning of each function. What it came to by then tells whether the code fits: whether it
asked for what was recorded, and for all of it, before it asked for anything else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from ..core.ids import ROLLBACK
from ..core.replay import Record
from ..errors import DuplicateStep, HistoryMismatch, NotInDurableTask, NotSerializable
from ..store.records import StepWrite
from .control import Damaged, Unwind
from .current import current_pass
from .executor import left_by
from .passing import Pass

__all__ = ["Frontier", "Rehearsal", "is_given_up", "rehearse"]

T = TypeVar("T")

_MISUSE = (DuplicateStep, NotInDurableTask, NotSerializable)
"""Errors that say that the code does not fit what is recorded, or itself; others may be what it is about."""


class Frontier(Unwind):
    """The body has come to where it would do something new."""


class Rehearsal(Pass):
    """A pass that does nothing."""

    is_rehearsal = True

    def reaching(self, operation: Callable[[], T]) -> T:
        self.leave(Frontier())

    def check_stopping(self) -> None:
        self.leave(Frontier())

    def flush_log(self) -> None:
        self._lines.clear()

    def lose(self, *steps: StepWrite) -> NoReturn:
        self.leave(Frontier())


def rehearse(run: Rehearsal, body: Callable[[], Any], ended: str | None = None) -> str | None:
    """Replay a run; what is wrong, or ``None`` where the code fits. ``ended``: how it has ended, if it has."""
    marker = current_pass.set(run)
    try:
        _, error = left_by(run, body)
        return _verdict(run, error) or _other_end(run, error, ended)
    finally:
        current_pass.reset(marker)
        run.let_go()


def _verdict(run: Rehearsal, error: BaseException | None) -> str | None:
    if isinstance(run.unwinding, (HistoryMismatch, Damaged)):
        return str(run.unwinding)
    if ROLLBACK in run.history:
        return None  # its end is decided, whatever the body does
    left = _left_out(run)
    if run.unwinding is None and isinstance(error, _MISUSE) and not _was_recorded(run, error):
        return f"the body raises {type(error).__name__}: {error}"
    if not left:
        return None
    ids = ", ".join(f"{record.id!r} ({record.kind}, {record.status})" for record in left[:5])
    more = f" and {len(left) - 5} more" if len(left) > 5 else ""
    if run.unwinding is not None:
        new = run.asked_last()
        at = "does something new" if new is None else f"asks for {new!r}, which is new or not finished,"
        return (
            f"the code {at} before it asks for what is recorded: {ids}{more}. Was a step renamed, moved or removed? "
            "It would be done again, or out of order. Guard the change with step.patched"
        )
    how = "returns" if error is None else f"raises {type(error).__name__}: {error}"
    return f"the body {how} before it asks for what is recorded: {ids}{more}. Guard the change with step.patched"


def _other_end(run: Rehearsal, error: BaseException | None, ended: str | None) -> str | None:
    """What is wrong with the end, where all before it fits."""
    if ended not in ("completed", "failed") or ROLLBACK in run.history:
        return None
    if run.unwinding is not None:
        return f"the run had {ended} here, and the code goes on: it asks for {run.asked_last()!r}"
    if ended == "completed" and error is not None:
        return f"the run had completed here, and the body raises {type(error).__name__}: {error}"
    return "the run had failed here, and the body returns" if ended == "failed" and error is None else None


def _left_out(run: Rehearsal) -> list[Record]:
    """What is recorded, and was to be asked for before the place that the body has come to."""
    left = [record for record in run.unread() if not is_given_up(record)]
    if run.unwinding is None:
        return left
    last = run.asked_last()
    if last is None:
        return left
    if run.kind_of(last) in ("lock", "unlock"):
        return []  # a copy of a run takes its locks itself; what comes behind can't be seen from here
    known = run.history.get(last)
    # Where it waits for a step again, what it did after that step had failed is recorded all the same.
    return left if known is None else [record for record in left if record.position < known.position]


def is_given_up(record: Record) -> bool:
    """What was cancelled may not have been asked for: who gave it up came first."""
    return record.status == "cancelled" or (record.seen or 0) < 0


def _was_recorded(run: Rehearsal, error: BaseException) -> bool:
    return bool(run.blamed_steps(error)) or any(known is error for _, known in run._raised.values())
