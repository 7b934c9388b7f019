"""The retry policy of a step: when to try again, and when not to."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import DurableError, NonRetryable, RetryAfter, StepTimeout
from .duration import Duration, micros

__all__ = ["Retry", "next_delay"]


@dataclass(frozen=True)
class Retry:
    """How often a step is tried, and how long the run is parked between two attempts.

    The n-th delay is ``delay * backoff ** (n - 1)``, never above ``max_delay``; with ``jitter`` it
    is a random part between half of that and all of it. Only errors that are an ``on`` and no
    ``never`` are tried again.
    """

    max_attempts: int = 4
    delay: Duration = "1s"
    backoff: float = 2.0
    max_delay: Duration = "10m"
    jitter: bool = True
    on: tuple[type[BaseException], ...] = (Exception,)
    never: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.max_attempts, bool) or not isinstance(self.max_attempts, int) or self.max_attempts < 1:
            raise ValueError(f"Retry(max_attempts={self.max_attempts!r}): a whole number from 1 on is expected")
        if not isinstance(self.backoff, (int, float)) or not self.backoff >= 1:
            raise ValueError(f"Retry(backoff={self.backoff!r}): a number from 1 on is expected")
        micros(self.delay)
        micros(self.max_delay)
        for name in ("on", "never"):
            given = getattr(self, name)
            types = (given,) if isinstance(given, type) else tuple(given)
            if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in types):
                raise TypeError(f"Retry({name}={given!r}): exception types are expected")
            object.__setattr__(self, name, types)


def next_delay(policy: Retry, attempt: int, error: BaseException, luck: float) -> int | None:
    """Microseconds until the next attempt, or ``None`` when there is none.

    ``attempt`` is the one that just failed, counted from 1; ``luck`` is a number from 0 to 1.
    """
    if isinstance(error, NonRetryable):
        return None
    if isinstance(error, DurableError) and not isinstance(error, StepTimeout):
        return None
    if attempt >= policy.max_attempts:
        return None
    if isinstance(error, RetryAfter):
        return micros(error.delay)
    if not isinstance(error, policy.on) or isinstance(error, policy.never):
        return None
    first, ceiling = micros(policy.delay), micros(policy.max_delay)
    if not first:
        return 0
    # A large exponent overflows a float long before it matters: the ceiling is reached by then.
    exponent = min(attempt - 1, 1_000)
    try:
        wanted = first * float(policy.backoff) ** exponent
    except OverflowError:
        wanted = float(ceiling)
    delay = min(wanted, float(ceiling))
    return round(delay * (0.5 + luck / 2)) if policy.jitter else round(delay)
