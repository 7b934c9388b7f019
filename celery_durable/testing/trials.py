"""Executing a run twice: once as it goes, and once with its worker killed whenever something is recorded.

What happened the first time is kept, and the second time it is the same: functions and tasks are not called again, what
they returned or raised comes from the first time, as does what was drawn. So whatever differs comes from the body.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..core.duration import SECOND
from ..core.replay import Record
from ..engine.control import LeaseLost
from ..engine.current import current_pass
from ..engine.rehearsal import is_given_up
from ..engine.where import Place
from ..engine.work import Work
from ..errors import NonRetryable
from ..store.records import Fence, StepWrite
from .mocks import Mocks
from .passes import EnvPass, Hooks, current_attempt

__all__ = ["Happened", "Outcome", "Recording", "Replaying", "Stranger"]

Key = tuple[str, int, str, int]

_TOLD_BY_OTHERS = frozenset({"call", "wait", "lock"})
"""Kinds of steps whose records others wait for: that they hear of it is not the body's."""
_NEVER = 1e9
"""Seconds."""


@dataclass
class Outcome:
    """What came of one attempt at a function."""

    value: Any = None
    error: Exception | None = None
    ended_at: int | None = None
    """``None``: it was given up."""
    emitted: list[str] = field(default_factory=list)
    """The events that the function has emitted."""

    @contextmanager
    def kept(self, run: EnvPass) -> Iterator[None]:
        """Keep what the function does meanwhile."""
        token = _current.set(self)
        try:
            yield
        except Exception as error:
            self.error = error
            raise
        finally:
            _current.reset(token)
            if not isinstance(sys.exc_info()[1], (asyncio.CancelledError, GeneratorExit)):
                self.ended_at = run.now()

    def left(self, run: EnvPass) -> float:
        """Seconds until it comes: when it came the first time."""
        return _NEVER if self.ended_at is None else max(0, self.ended_at - run.now()) / SECOND

    def get(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.value


_current: ContextVar[Outcome | None] = ContextVar("celery_durable_outcome", default=None)


@dataclass
class Happened:
    """What happened the first time."""

    outcomes: dict[Key, Outcome] = field(default_factory=dict)
    draws: dict[Key, str] = field(default_factory=dict)
    emitted: list[tuple[str | None, str]] = field(default_factory=list)
    """The events that came while work was done: the run whose, if any, and the event."""
    swallowed: dict[str, tuple[str | None, Place | None]] = field(default_factory=dict)
    """The tasks whose body has caught what was to carry it out, and the step that it was to leave it at."""

    def note_swallowed(self, run: EnvPass) -> None:
        last = run.asked_last()
        self.swallowed.setdefault(run.dispatcher.task_name(), (last, run.place_of(last or "")))


class Stranger(NamedTuple):
    """A step that a body has asked for in the place of others."""

    run_id: str
    step_id: str | None
    place: Place | None
    unread: tuple[str, ...]
    """What is recorded, and was not asked for this time."""


def _key(run: EnvPass, step_id: str, attempt: int = 0) -> Key:
    return (run.run_id, run.claim.generation, step_id, attempt)


class Trial(Hooks):
    """What both have in common: each pass of a run has to ask for what the earlier ones have recorded."""

    def __init__(self, happened: Happened) -> None:
        self.happened = happened
        self.stranger: Stranger | None = None

    def asked_while_leaving(self, run: EnvPass) -> None:
        # In a ``finally`` or an ``except`` that is as it should be.
        if sys.exc_info()[1] is None:
            self.happened.note_swallowed(run)

    def swallowed(self, run: EnvPass) -> None:
        self.happened.note_swallowed(run)

    def parked(self, run: EnvPass) -> None:
        left = _passed_over(run)
        if left and self.stranger is None:
            self.is_over = True  # or it would go on for ever: the next pass asks for something else again
            self.note_stranger(run, run.asked_last(), left)

    def note_stranger(self, run: EnvPass, step_id: str | None, left: list[Record]) -> None:
        """Keep the first one: what comes after it is its consequence."""
        unread = tuple(record.id for record in left)
        self.stranger = self.stranger or Stranger(run.run_id, step_id, run.place_of(step_id or ""), unread)


def _passed_over(run: EnvPass) -> list[Record]:
    """What is recorded and was not asked for on the way to the place at which the run is parked."""
    last = run.asked_last()
    if last is None or run.claim.retries or run.claim.restarts or run.kind_of(last) in ("lock", "unlock"):
        return []  # what failed begins anew, and what came after it may never be asked for again
    left = [record for record in run.unread() if not is_given_up(record)]
    # Where it waits for a step again, what it did after that step had failed is recorded all the same.
    return [record for record in left if last not in run.recorded or record.position < run.history[last].position]


class Recording(Trial):
    """Keeps what happens."""

    def __init__(self, mocks: Mocks) -> None:
        super().__init__(Happened())
        self._mocks = mocks

    def function_of(self, run: EnvPass, step_id: str, work: Work) -> Callable[..., Any]:
        function = self._mocks.function_of(run, step_id, work)

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            outcome = self.happened.outcomes[_key(run, step_id, current_attempt())] = Outcome()
            with outcome.kept(run):
                outcome.value = function(*args, **kwargs)
            return finish(outcome, outcome.value) if inspect.iscoroutine(outcome.value) else outcome.value

        async def finish(outcome: Outcome, work: Coroutine[Any, Any, Any]) -> Any:
            outcome.value = outcome.ended_at = None
            with outcome.kept(run):
                outcome.value = await work
            return outcome.value

        return call

    def draw(self, run: EnvPass, step_id: str, make: Callable[[], str]) -> str:
        return self.happened.draws.setdefault(_key(run, step_id), make())

    def emitted(self, event_id: str) -> None:
        """An event was emitted while work was done: by a function, a body or a task."""
        run, outcome = current_pass.get(), _current.get()
        self.happened.emitted.append((None if run is None else run.run_id, event_id))
        if outcome is not None:
            outcome.emitted.append(event_id)


class Replaying(Trial):
    """Lets the same happen again, and kills the worker whenever a step is recorded."""

    def __init__(self, happened: Happened, emit: Callable[[str], None]) -> None:
        super().__init__(happened)
        self._emit = emit
        self._killed: list[Fence] = []

    def function_of(self, run: EnvPass, step_id: str, work: Work) -> Callable[..., Any]:
        is_async = inspect.iscoroutinefunction(inspect.unwrap(work.fn))

        @functools.wraps(work.fn)
        def call(*_: Any, **__: Any) -> Any:
            outcome = self.happened.outcomes.get(_key(run, step_id, current_attempt()))
            if outcome is None:
                self.note_stranger(run, step_id, run.unread())
                raise NonRetryable(f"step {step_id!r} was not asked for the first time")
            # An undo that is async is called without an event loop.
            if is_async and (_has_loop() or outcome.ended_at is None):
                return come_to(outcome)
            run.store.steady.skip(outcome.left(run))
            return self._repeat(outcome)

        async def come_to(outcome: Outcome) -> Any:
            await asyncio.sleep(outcome.left(run))
            return self._repeat(outcome)

        return call

    def _repeat(self, outcome: Outcome) -> Any:
        for event_id in outcome.emitted:
            self._emit(event_id)
        return outcome.get()

    def draw(self, run: EnvPass, step_id: str, make: Callable[[], str]) -> str:
        return self.happened.draws.get(_key(run, step_id)) or make()

    def recorded(self, run: EnvPass, steps: tuple[StepWrite, ...]) -> None:
        if self.stranger is not None:
            return  # it is known what is wrong, and there would be others without an end
        ended = [step for step in steps if step.status in ("completed", "failed")]
        if ended and not any(step.kind in _TOLD_BY_OTHERS for step in steps) and run.unwinding is None:
            self._killed.append(run.fence)
            run.leave(LeaseLost(run.run_id))

    def take_killed(self) -> list[Fence]:
        """The runs whose worker was killed, to be taken over."""
        killed, self._killed = self._killed, []
        return killed


def _has_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
