"""One run: how it stands and what can be done, its steps in three views, each step by itself, its history as a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from werkzeug.exceptions import BadRequest, NotFound
from werkzeug.wrappers import Response

from ...client import BULK_STATUSES
from ...client.words import now, value_of
from ...core.ids import ROLLBACK
from ...errors import RunNotFound
from ...model import FINISHED, Event, LogRecord, Run, StepRecord
from ..flow import Part, flow
from ..segments import to_segment
from ..timeline import steady_now, timeline
from ..visit import Visit
from ..windows import Window, failed_steps, open_steps, window

__all__ = ["run", "run_history", "run_step"]

VIEWS = ("list", "flow", "timeline")

_NAMED = 10
"""Steps that are named beside the views, and whose values are read for that."""
_CHILDREN = 50
_OPENED = 5
"""Runs that were called and whose graphs are shown within the graph."""
_LINES = 200


@dataclass(frozen=True)
class Opened:
    """A run that was called, shown within the graph of its caller."""

    run: Run
    parts: tuple[Part, ...]


def run(visit: Visit, run_id: str) -> Response:
    """The page of a run. Of its steps the values are read for those alone that are shown with them."""
    view = visit.args.get("view", "list")
    if view not in VIEWS:
        raise BadRequest(f"There is no view {view!r}: there are {', '.join(VIEWS)}.")
    found = visit.durable.get(run_id, values=False)
    shown = window(found.steps, _start(visit))
    under_way, failed = open_steps(found), failed_steps(found)
    cause = _cause(found, failed)
    named = [*under_way[:_NAMED], *failed[-_NAMED:]]
    steps = _in_full(visit, found, [*named, *_with_values(view, shown)])
    return visit.render(
        "run.html",
        live=found.status not in FINISHED,
        run=found,
        view=view,
        views=VIEWS,
        is_ordinary=_is_ordinary(found),
        actions=[action for action in _actions(found) if visit.may(action)],
        shown=shown,
        steps=steps,
        under_way=[steps.get(step.id, step) for step in under_way[:_NAMED]],
        more_under_way=max(0, len(under_way) - _NAMED),
        current={step.id for step in under_way},
        cause=None if cause is None else steps.get(cause.id, cause),
        survived=[step for step in failed if step is not cause],
        children=_children(visit, found),
        lines=_lines(visit, run_id),
        most_lines=_LINES,
        most_named=_NAMED,
        **_drawn(visit, view, found, shown, steps),
    )


def run_step(visit: Visit, run_id: str, step_id: str) -> Response:
    """The page of a step: all that is recorded of it."""
    found = visit.durable.get(run_id, values=False)
    place = next((place for place, step in enumerate(found.steps) if step.id == step_id), None)
    steps = visit.durable.steps(run_id, [step_id])
    if place is None or not steps:
        raise NotFound(
            f"Run {run_id!r} has recorded no step {step_id!r}: it has not come to it, or has continued as new since."
        )
    step = steps[0]
    return visit.render(
        "run-step.html",
        live=found.status not in FINISHED,
        run=found,
        step=step,
        place=place,
        before=found.steps[place - 1] if place else None,
        after=found.steps[place + 1] if place + 1 < len(found.steps) else None,
        is_current=step.status in ("waiting", "started") and found.status not in FINISHED,
        can_fork=visit.may("fork") and _can_be_copied(found),
        child=_children(visit, found).get(step.child or ""),
        given=_given(step),
        result=step.result.model_dump(mode="json") if isinstance(step.result, Event) else step.result,
        event=_event_of(step),
        lines=[line for line in _lines(visit, run_id) if line.step_id == step_id],
        most_lines=_LINES,
    )


def run_history(visit: Visit, run_id: str) -> Response:
    """The history as a file, without what is to stay secret."""
    response = Response(visit.durable.export(run_id, redact=True), content_type="application/json; charset=utf-8")
    response.headers.set("Content-Disposition", "attachment", filename=f"{to_segment(run_id)}.history.json")
    return response


# -- What can be done


def _actions(found: Run) -> list[str]:
    """What its status allows, the most likely first."""
    if _is_ordinary(found):
        return []
    actions = ["resume"] if found.status in BULK_STATUSES["resume"] else []
    if found.status in BULK_STATUSES["retry"] and _can_be_copied(found):
        actions.append("retry")
    if found.status in ("pending", "running", "suspended"):
        actions.append("pause")
    if found.steps and _can_be_copied(found):
        actions.append("fork")
    actions.append("replay")
    if found.status in BULK_STATUSES["cancel"] and found.cancelling is None:
        actions.append("cancel")
    return actions


def _is_ordinary(found: Run) -> bool:
    """Whether it is no durable task that a run has called: it ended without a pass."""
    return found.parent is not None and found.passes == 0 and found.status in ("completed", "failed")


def _can_be_copied(found: Run) -> bool:
    """What has been rolled back can't go on: what its steps did is undone."""
    return all(step.id != ROLLBACK for step in found.steps)


# -- What is read


def _start(visit: Visit) -> int | None:
    given = visit.args.get("from", "")
    if given and not (given.isdecimal() and len(given) < 10):
        raise BadRequest(f"from={given!r}: the position of a step is expected.")
    return int(given) if given else None


def _with_values(view: str, shown: Window) -> list[StepRecord]:
    if view == "list":
        return list(shown.steps)
    return [step for step in shown.steps if step.attempts > 1] if view == "timeline" else []


def _in_full(visit: Visit, found: Run, wanted: Iterable[StepRecord]) -> dict[str, StepRecord]:
    ids = {step.id: None for step in wanted}
    return {step.id: step for step in visit.durable.steps(found.id, list(ids))} if ids else {}


def _cause(found: Run, failed: list[StepRecord]) -> StepRecord | None:
    """The step whose error ended the run."""
    error = found.error
    if found.status not in FINISHED or error is None:
        return None
    same = [
        step for step in failed if step.error and (step.error.type, step.error.message) == (error.type, error.message)
    ]
    return same[-1] if same else None


def _children(visit: Visit, found: Run) -> dict[str, Run]:
    """The durable ones among the runs that it has called, the last ones of many."""
    return {child.id: child for child in visit.durable.runs(parent=found.id, limit=_CHILDREN)} if found.children else {}


def _lines(visit: Visit, run_id: str) -> list[LogRecord]:
    return list(visit.durable.logs(run_id))[-_LINES:]


def _event_of(step: StepRecord) -> str | None:
    """The event that it took, or emitted."""
    if isinstance(step.result, Event):
        return step.result.id
    return step.result if step.kind == "emit" and isinstance(step.result, str) else None


def _given(step: StepRecord) -> Any:
    """A step's input as its caller wrote it: of a call that has positional arguments alone these, and so on."""
    match step.input:
        case [list() as args, dict() as kwargs] if step.function is not None and step.kind != "call":
            return {"args": args, "kwargs": kwargs} if args and kwargs else args or kwargs or None
    return step.input


def _in_short(step: StepRecord) -> Any:
    """What a step returned, for a line."""
    taken = step.result
    return f"{taken.id}: {value_of(taken.payload)}" if isinstance(taken, Event) else taken


# -- What is drawn


def _drawn(visit: Visit, view: str, found: Run, shown: Window, steps: Mapping[str, StepRecord]) -> dict[str, Any]:
    if view == "flow":
        wanted = visit.request.args.getlist("open")[:_OPENED]
        return {"parts": flow(found.steps), "wanted": wanted, "opened": _opened(visit, found, wanted)}
    if view == "timeline":
        rows = [steps.get(step.id, step) for step in shown.steps]
        folded = visit.args.get("unfold") != "1"
        moment = steady_now(found, now())
        return {
            "folded": folded,
            "drawn": timeline(found, rows, moment, is_whole=shown.is_whole, folded=folded),
        }
    return {"said": {step.id: _in_short(step) for step in steps.values()}}


def _opened(visit: Visit, found: Run, wanted: Iterable[str]) -> dict[str, Opened | None]:
    """The graphs of called runs that are asked for; ``None`` for what has none, as an ordinary task."""
    opened: dict[str, Opened | None] = {}
    called = {step.id: step.child for step in found.steps if step.child is not None}
    for step_id in wanted:
        if step_id not in called:
            continue
        try:
            child = visit.durable.get(called[step_id] or "", values=False)
        except RunNotFound:
            opened[step_id] = None
        else:
            opened[step_id] = Opened(child, flow(child.steps))
    return opened
