"""A pass in a test: the engine's, and what may stand in its way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from ..engine.control import Suspended, Unwind
from ..engine.current import current_step
from ..engine.keeper import Keeper
from ..engine.passing import Pass
from ..engine.work import Work
from ..store.records import Claim, Fence, StepWrite
from .clock import Clock

__all__ = ["EnvKeeper", "EnvPass", "Hooks", "current_attempt"]


def current_attempt() -> int:
    """Which attempt at its step a function is called for."""
    context = current_step.get()
    return 1 if context is None else context.attempt


class Hooks:
    """What a test has to do with passes; by itself nothing."""

    is_over = False
    """Nothing more is to happen: what the test asks is answered."""

    def function_of(self, run: EnvPass, step_id: str, work: Work) -> Callable[..., Any]:
        """What is called for a step."""
        return work.fn

    def draw(self, run: EnvPass, step_id: str, make: Callable[[], str]) -> str:
        """What is drawn for a step, as it is recorded."""
        return make()

    def asked_while_leaving(self, run: EnvPass) -> None:
        """The body has called a verb, and is being left."""

    def recorded(self, run: EnvPass, steps: tuple[StepWrite, ...]) -> None:
        """These rows are recorded."""

    def swallowed(self, run: EnvPass) -> None:
        """The body has caught what was to carry it out of its body."""

    def parked(self, run: EnvPass) -> None:
        """The run is parked, and its body about to be left."""

    def take_killed(self) -> list[Fence]:
        """The runs whose worker was killed since the last look: they are taken over at once."""
        return []


class EnvPass(Pass):
    """One execution of a body in a test. Its functions are called one after the other."""

    uses_threads = False

    def __init__(self, hooks: Hooks, claim: Claim, **parts: Any) -> None:
        super().__init__(claim, **parts)
        self.hooks = hooks
        self.recorded = frozenset(self.history)
        """The steps that earlier passes have recorded."""
        self._clock: Clock = self.store.steady  # type: ignore[assignment]

    def function_of(self, step_id: str, work: Work) -> Callable[..., Any]:
        return self.hooks.function_of(self, step_id, work)

    def draw(self, step_id: str, make: Callable[[], str]) -> str:
        return self.hooks.draw(self, step_id, make)

    def new_event_id(self) -> str:  # type: ignore[override]
        return self.hooks.draw(self, self.asked_last() or "", super().new_event_id)

    def now(self) -> int:
        """What time it is: the database has the same clock."""
        return self._clock.now

    @staticmethod
    def luck() -> float:
        """No jitter: a retry comes after all of its delay, in every test run."""
        return 1.0

    def enter(self, verb: str) -> None:
        if self.unwinding is not None:
            self.hooks.asked_while_leaving(self)
        super().enter(verb)

    def kept(self, *steps: StepWrite) -> None:
        super().kept(*steps)
        self.hooks.recorded(self, steps)

    def leave(self, unwind: Unwind) -> NoReturn:
        if isinstance(unwind, Suspended):
            self.hooks.parked(self)
        super().leave(unwind)

    def swallowed(self) -> None:
        super().swallowed()
        self.hooks.swallowed(self)


class EnvKeeper(Keeper):
    """Marks what is delivered at once, and has no thread: time stands still while a pass is under way."""

    def hold(self, fence: Fence) -> None: ...

    def drop(self, fence: Fence) -> None: ...

    def delivered(self, ended: Fence) -> None:
        with self._store.link() as link:
            self._store.mark_delivered(link, [ended])
