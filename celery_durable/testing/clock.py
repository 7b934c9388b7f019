"""Time in a test: it stands still, and passes at once when it is told to."""

from __future__ import annotations

from ..core.duration import SECOND
from ..store.steady import Steady

__all__ = ["Clock"]


class Clock(Steady):
    """The clock of one environment, the database's and the process's alike."""

    def __init__(self, now: int) -> None:
        self.began = now
        self.now = now

    def seconds(self) -> float:
        return (self.now - self.began) / SECOND

    def skip(self, seconds: float) -> bool:
        self.now += round(seconds * SECOND)
        return True

    def move_to(self, instant: int) -> None:
        """Let time pass until then; it does not go back."""
        self.now = max(self.now, instant)
