"""What the engine needs from the world of tasks and messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from ..store.records import Aftermath, StepWrite

if TYPE_CHECKING:
    from .calls import Target

__all__ = ["Dispatcher", "tell_of"]

_CALLING = frozenset({"run", "transaction", "undo"})
"""Kinds of steps that call a function."""


class Dispatcher(Protocol):
    """What a pass needs from the world of messages; the worker layer has the one that is Celery."""

    def may_send_ahead(self, delay: int) -> bool:
        """Whether a message for ``delay`` microseconds from now may be sent already."""

    def wake(self, delay: int) -> None:
        """Send this run's message, to be executed after the delay."""

    def task_name(self) -> str:
        """The task that this is a run of."""

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Arguments for a new beginning, as they are recorded."""

    def tell(self, what: str, **facts: Any) -> None:
        """Something has happened that monitors want to know."""

    def target(self, signature: Any, queue: str | None) -> Target:
        """What ``step.call`` was given, checked; raises where it is nothing that can be called."""

    def follow(self, aftermath: Aftermath) -> None:
        """Other runs have something to do: send their messages."""

    def emitted(self, event_id: str, name: str, key: str | None) -> None:
        """An event was emitted by a step: have it dispatched."""

    def announce(self, waiting_on: str, wake_at: int | None) -> None:
        """Show to Celery's users what the run waits for, before anything can wake it."""

    def stopping(self) -> bool:
        """Whether this worker is shutting down, so that the run should go on elsewhere."""


def tell_of(dispatcher: Dispatcher, steps: Iterable[StepWrite]) -> None:
    """Tell of attempts whose outcome is recorded."""
    for step in steps:
        if step.kind in _CALLING:
            if step.status == "waiting":
                dispatcher.tell("step_retried", step=step)
            elif step.status != "started":
                dispatcher.tell("step_finished", step=step)
