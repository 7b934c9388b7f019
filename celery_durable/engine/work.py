"""What a verb asks a pass to do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..core.boundary import Signature, signature_of
from ..core.duration import Duration, micros
from ..core.retry import Retry
from ..errors import StepCancelled

__all__ = ["Options", "StepContext", "Work"]


@dataclass(frozen=True)
class Options:
    """How one use of a verb differs from the task's defaults."""

    retry: Retry | None = None
    timeout: Duration | None = None
    returns: Any = None
    queue: str | None = None
    at_most_once: bool = False

    def __post_init__(self) -> None:
        if self.retry is not None and not isinstance(self.retry, Retry):
            raise TypeError(f"retry={self.retry!r}: a Retry(...) is expected")
        if self.timeout is not None:
            micros(self.timeout)


class Work(NamedTuple):
    """A step whose outcome comes from calling a function. A tuple: one is made for every step of every pass."""

    id: str
    kind: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: Options

    @property
    def function(self) -> str | None:
        """The function's name, as shown to people."""
        name = getattr(self.fn, "__qualname__", None)
        return f"{getattr(self.fn, '__module__', '')}.{name}"[:255] if name else None

    def signature(self) -> Signature:
        return signature_of(self.fn, handed=self.kind == "transaction")  # its session comes first


class StepContext:
    """What a step's function can learn about itself: ``step.current()``.

    ``run_id`` and ``step_id`` say where it is called, ``attempt`` counts from 1, and ``last_heartbeat`` is the detail
    that the attempt before has left, if it has.
    """

    __slots__ = ("_beat", "_generation", "_lock", "_stopped", "attempt", "last_heartbeat", "run_id", "step_id")

    def __init__(
        self,
        run_id: str,
        step_id: str,
        attempt: int,
        last_heartbeat: Any,
        beat: Callable[[Any], None] | None,
        generation: int = 0,
    ) -> None:
        self.run_id = run_id
        self._generation = generation
        self.step_id = step_id
        self.attempt = attempt
        self.last_heartbeat = last_heartbeat
        self._beat = beat
        self._stopped: str | None = None
        self._lock = threading.Lock()

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this step and for no other: hand it to a payment API."""
        anew = f":{self._generation}" if self._generation else ""  # after continue_as_new it is another step
        return f"{self.run_id}:{self.step_id}{anew}"

    def heartbeat(self, detail: Any = None) -> None:
        """Record how far the step has come. The next attempt finds it in ``last_heartbeat``.

        In a branch that was cancelled this raises ``StepCancelled``: nobody waits for it any more.
        """
        with self._lock:
            if self._stopped is not None:
                raise StepCancelled(self._stopped)
            if self._beat is not None:
                self._beat(detail)

    def stop(self, why: str) -> None:
        """The attempt is given up: the next heartbeat of its function ends it."""
        with self._lock:
            self._stopped = why

    def close(self) -> None:
        """The attempt is over: a function that was given up and goes on in its thread is not heard any more."""
        with self._lock:
            self._beat = None
