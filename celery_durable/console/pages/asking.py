"""Asking before something is done to a run: what will come of it, in words, and a form that does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from werkzeug.wrappers import Response

from ...errors import DurableError, EventNotFound, RunNotFound, StepNotFound, TaskNotFound, WrongStatus
from ...model import FINISHED, Run
from ..visit import Visit

__all__ = ["STATUSES", "Ask", "asking", "cannot", "deed_of", "do", "named", "new_id_of", "possible", "refused"]

_LIVE = ("pending", "running", "suspended", "paused")
_NAMED = 8
"""Steps or runs that a sentence names."""
_LONGEST_REASON = 500

STATUSES: Mapping[str, tuple[str, ...]] = {
    "cancel": _LIVE,
    "pause": ("pending", "running", "suspended"),
    "resume": ("paused",),
    "retry": ("failed",),
    "fork": (*_LIVE, *FINISHED),
    "replay": (*_LIVE, *FINISHED),
    "answer": ("suspended", "paused", "running"),
}
"""What can be done to a run of which status."""


@dataclass
class Ask:
    """A page that asks before something is done."""

    action: str
    run: Run
    title: str
    button: str
    lines: list[str]
    """What will come of it, in words."""
    danger: bool = False
    more: dict[str, Any] = field(default_factory=dict)
    """What its template needs besides."""


def possible(run: Run) -> list[str]:
    """What can be done to a run as it stands, but for answering it."""
    return [action for action in STATUSES if action != "answer" and refused(action, run) is None]


def refused(action: str, run: Run) -> str | None:
    """Why something can't be done to a run."""
    if action in ("retry", "fork") and any(step.kind == "rollback" for step in run.steps):
        return "It was rolled back: what its steps did has been undone, so there is nothing left to go on from."
    if run.status in STATUSES[action]:
        return None
    return {
        "cancel": f"It is {run.status}: it has ended, and there is nothing left to cancel.",
        "pause": f"It is {run.status}: only what has not ended can be paused.",
        "resume": f"It is {run.status}: only a paused run can be resumed.",
        "retry": f"It is {run.status}: only a failed run can be retried.",
    }.get(action, f"It is {run.status}.")


def cannot(visit: Visit, action: str, run: Run, why: str) -> Response:
    """Say what was found instead, and what can be done."""
    instead = [each for each in possible(run) if each != action and visit.may(each)]
    return visit.render("cannot.html", 409, live=False, action=action, run=run, why=why, instead=instead)


def asking(
    visit: Visit, ask: Ask, template: str = "do.html", *, problem: str | None = None, status: int = 200
) -> Response:
    """The page that asks, also once more where something was wrong. What was typed stays."""
    typed = visit.request.form
    return visit.render(
        template,
        status,
        live=False,
        ask=ask,
        run=ask.run,
        problem=problem,
        typed=typed,
        new_id=str(uuid4()),
        **ask.more,
    )


def do(visit: Visit, ask: Ask, act: Callable[[], Run], template: str = "do.html") -> Response:
    """Ask, or do it and show the run that it comes to."""
    if visit.request.method == "GET":
        return asking(visit, ask, template)
    try:
        done = act()
    except (RunNotFound, StepNotFound, EventNotFound, TaskNotFound):
        raise
    except WrongStatus as error:
        return cannot(visit, ask.action, visit.durable.get(ask.run.id, values=False), str(error))
    except (DurableError, TypeError, ValueError) as error:
        return asking(visit, ask, template, problem=str(error), status=400)
    return visit.redirect("run", run_id=done.id)


def deed_of(visit: Visit) -> dict[str, Any]:
    """Who does it, and why, where that is said."""
    reason = visit.request.form.get("reason", "").strip()[:_LONGEST_REASON]
    return {"by": visit.who} | ({"reason": reason} if reason else {})


def new_id_of(visit: Visit) -> str | None:
    """The id that a new run is to have: the one that was typed, else one that is the same when it is sent twice."""
    form = visit.request.form
    return form.get("task_id", "").strip() or form.get("new_id", "").strip() or None


def named(ids: Sequence[str]) -> str:
    """The first of these, and how many more there are."""
    told = ", ".join(ids[:_NAMED])
    return told if len(ids) <= _NAMED else f"{told} and {len(ids) - _NAMED:,} more"
