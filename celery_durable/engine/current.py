"""What is being executed here and now: by this thread, this greenlet, this task of an event loop."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from ..errors import NotInDurableTask
from .where import caller

if TYPE_CHECKING:
    from .passing import Pass
    from .work import StepContext

__all__ = ["current_branch", "current_pass", "current_step", "pass_of"]

current_pass: ContextVar[Pass | None] = ContextVar("celery_durable_pass", default=None)
current_branch: ContextVar[str] = ContextVar("celery_durable_branch", default="")
"""What the ids of steps begin with that are numbered within a branch of their own."""
current_step: ContextVar[StepContext | None] = ContextVar("celery_durable_step", default=None)


def pass_of(verb: str) -> Pass:
    """The pass whose body has asked by this verb."""
    run = current_pass.get()
    if run is None:
        place = caller()
        raise NotInDurableTask(
            f"{verb} was called in {place.code.co_name}() ({place.code.co_filename}, line {place.line}), which is not "
            "being executed as a durable task: add base=DurableTask and call it with .delay() or .apply_async()."
        )
    if run.tasks is not None:
        raise NotInDurableTask(
            f"{verb} of celery_durable was called in the async def task of run {run.run_id} ({caller()}), whose event "
            "loop it would block: import step from celery_durable.aio there, and await its verbs."
        )
    run.enter(verb)
    return run
