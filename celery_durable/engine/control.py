"""How a pass ends before the body does.

Leaving the body is done by raising a ``BaseException``, so that ``except Exception`` in the body does
not swallow it. While one is on its way out, every verb that the body reaches (in a ``finally``, in a
bare ``except``) raises it again, so clean-up steps run once, on the pass that really leaves the block.
"""

from __future__ import annotations

__all__ = [
    "ContinueAsNew",
    "Damaged",
    "DatabaseAway",
    "LeaseLost",
    "RollingBack",
    "RunRetry",
    "Stopped",
    "Suspended",
    "Unwind",
]


class Unwind(BaseException):
    """Base of what carries a pass out of the body."""


class Suspended(Unwind):
    """The run is parked: its state is recorded, and nothing of it stays here."""

    def __init__(self, waiting_on: str, wake_at: int | None) -> None:
        super().__init__(waiting_on)
        self.wake_at = wake_at


class LeaseLost(Unwind):
    """Another worker has the run now: nothing that happens here counts any more."""


class Stopped(LeaseLost):
    """The run was paused, or is to be cancelled, while it was executed here: nobody else has it before what is under
    way has ended, and is recorded."""


class Damaged(Unwind):
    """What is recorded of the run can't be read: it is paused for a person."""


class DatabaseAway(Unwind):
    """The record can't be written: the run goes on elsewhere when its lease has ended."""


class RunRetry(Unwind):
    """The body is to start over (Celery's ``retry``), with its finished steps kept."""

    def __init__(self, error: BaseException | None, delay: int) -> None:
        super().__init__(error, delay)
        self.error = error
        self.delay = delay


class ContinueAsNew(Unwind):
    """The body is to begin again with these arguments, and with an empty history."""

    def __init__(self, arguments: str) -> None:
        super().__init__(arguments)
        self.arguments = arguments


class RollingBack(Unwind):
    """The body has come to where it was when its rollback began: it is not to do anything new."""
