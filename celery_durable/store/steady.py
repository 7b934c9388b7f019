"""The clock that measures how long something takes in this process."""

from __future__ import annotations

import time

__all__ = ["Steady"]


class Steady:
    """It never goes back, and knows no date: what is due, and when, is for the database's clock to say."""

    def seconds(self) -> float:
        """How late it is."""
        return time.monotonic()

    def skip(self, seconds: float) -> bool:
        """Whether this time need not be waited for: the clock of tests lets it pass at once."""
        return False
