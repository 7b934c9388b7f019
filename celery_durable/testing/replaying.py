"""``check_replay``: does a body come to the same when its run is killed and goes on?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..core.duration import as_datetime
from ..engine.changing import AFTER_A_DEPLOY
from ..model import Event, EventRecord, Run
from ..worker.dispatch import event_emitted
from .effects import Effects
from .trials import Recording, Replaying, Stranger

if TYPE_CHECKING:
    from .env import DurableEnv

__all__ = ["ReplayError", "check_replay"]

_RUN_ID = "check-replay"
_EPOCH = as_datetime(0)
_DETERMINED = (
    "What a body asks for, and what it gives to steps, has to follow from its arguments and from what steps returned."
)
Script = Callable[..., Any]


class ReplayError(AssertionError):
    """A body that does not come to the same when it is executed again, or that has an effect outside of a step."""


@dataclass(frozen=True)
class Trial:
    """How a run and all that it has called went."""

    runs: dict[str, Run]
    ended: dict[str, tuple[Any, str | None]]
    """What became of the tasks that were called, by their ids: a value, or an error."""
    failure: Exception | None
    """What the script has raised."""


def check_replay(
    env: DurableEnv,
    task: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    script: Script | None,
    allow: Iterable[str],
) -> Run:
    """Execute a run twice, and compare. Returns the run as it was the first time."""
    effects = Effects(allow)
    recording = Recording(env.mocks)

    first = env.sibling(recording)

    def note(event_id: str = "", **_: Any) -> None:
        if first.is_settling:  # else it comes from the script, which is to emit it again
            recording.emitted(event_id)

    event_emitted.connect(note, weak=False)
    try:
        with effects.watching():
            one = _go(first, task, args, kwargs, script)
        events = {event.id: event for event in first.durable.events(limit=1000)}
    finally:
        event_emitted.disconnect(note)
        first.close()

    differences = _strangers(recording)
    if one.failure is not None and not differences:
        raise one.failure
    differences = differences or _go_again(env, recording, one, events, task, args, kwargs, script)
    wrong = [*map(str, effects.found.values()), *_swallowed(recording), *differences]
    if wrong:
        lines = [
            f"{task.name} does not replay:",
            *(f"- {line}" for line in wrong),
            *([_DETERMINED] if differences else []),
        ]
        raise ReplayError("\n".join(lines))
    return one.runs[_RUN_ID]


def _go_again(
    env: DurableEnv,
    recording: Recording,
    one: Trial,
    events: dict[str, EventRecord],
    task: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    script: Script | None,
) -> list[str]:
    """Execute the run with its worker killed all the time; where it differs from how it went."""

    def emit(event_id: str) -> None:
        event = events[event_id]
        second.emit(event.name, event.payload, key=event.key, event_id=event_id)

    replaying = Replaying(recording.happened, emit)
    others = [events[event_id] for run_id, event_id in recording.happened.emitted if run_id not in one.runs]
    second = env.sibling(replaying, ended=one.ended)
    second.expect(others)
    try:
        two = _go(second, task, args, kwargs, script)
    finally:
        second.close()
    found = _strangers(replaying) or _differences(env, one, two)
    if two.failure is not None and not found:
        raise two.failure
    return found


def _go(env: DurableEnv, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], script: Script | None) -> Trial:
    run = env.start(task.s(*args, **kwargs).set(task_id=_RUN_ID))
    failure = None
    if script is not None:
        given = (env, run)
        try:
            script(*given[: len(inspect.signature(script).parameters)])
        except Exception as error:
            failure = error  # where the trials differ, it is a consequence of that
    env.run_until_idle()
    runs: dict[str, Run] = {}
    open_ids = [_RUN_ID]
    while open_ids:
        run_id = open_ids.pop()
        runs[run_id] = env.read(run_id)
        open_ids += runs[run_id].children
    return Trial(runs, env.ended_tasks(), failure)


def _swallowed(recording: Recording) -> list[str]:
    return [
        f"the body of {task} catches the exception that parks its run at the step {step_id!r} ({place}), and goes on: "
        "catch Exception, not BaseException"
        for task, (step_id, place) in sorted(recording.happened.swallowed.items())
    ]


def _strangers(trial: Recording | Replaying) -> list[str]:
    found = trial.stranger
    return [] if found is None else [_told(found)]


def _told(found: Stranger) -> str:
    unread = ", ".join(map(repr, found.unread[:5]))
    asked = f"the body asked for the step {found.step_id!r} ({found.place})"
    instead = f" before it asked for {unread}, as it had" if unread else ", which it had not asked for the first time"
    return f"run {found.run_id}: executed again, {asked}{instead}"


def _differences(env: DurableEnv, one: Trial, two: Trial) -> list[str]:
    for run in (*one.runs.values(), *two.runs.values()):
        if run.status == "paused":
            why = run.error.message if run.error else run.waiting_on or ""
            return [f"{run.task}: {why.removesuffix(AFTER_A_DEPLOY)}"]
    for run_id, run in one.runs.items():
        other = two.runs.get(run_id)
        if other is None:
            return [f"run {run_id} of {run.task} was called the first time, and not when its caller was killed"]
        wrong = _difference(run, other, is_async=_is_async(env.app.tasks.get(run.task)))
        if wrong:
            return [f"run {run_id} of {run.task}: {wrong}"]
    return []


def _is_async(task: Any) -> bool:
    return task is not None and inspect.iscoroutinefunction(inspect.unwrap(task.run))


def _without_time(value: Any) -> Any:
    """An event may come a moment earlier or later than the first time."""
    return value.model_copy(update={"emitted_at": _EPOCH}) if isinstance(value, Event) else value


def _difference(one: Run, two: Run, *, is_async: bool) -> str | None:
    """The first step that is another one, or the end. Branches of an ``async def`` body may overtake each other."""
    theirs = {step.id: step for step in two.steps}
    for step in one.steps:
        other = theirs.pop(step.id, None)
        if other is None:
            return f"step {step.id!r} was asked for the first time, and not when the run was killed on its way"
        for what in ("kind", "input", "status", "result"):
            was, became = _without_time(getattr(step, what)), _without_time(getattr(other, what))
            if was != became:
                return (
                    f"the {what} of step {step.id!r} was one thing the first time, and another when the run was killed "
                    f"on its way:\n    first:  {was!r}\n    killed: {became!r}"
                )
    if theirs:
        return f"step {next(iter(theirs))!r} was asked for only when the run was killed on its way"
    order = [step.id for step in one.steps], [step.id for step in two.steps]
    if order[0] != order[1] and not is_async:
        return f"its steps were asked for in another order:\n    first:  {order[0]}\n    killed: {order[1]}"
    ends = [(run.status, run.result, run.error and (run.error.type, run.error.message)) for run in (one, two)]
    if ends[0] != ends[1]:
        return f"its end is another one:\n    first:  {ends[0]}\n    killed: {ends[1]}"
    return None
