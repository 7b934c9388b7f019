"""What is done to all runs that the filters in the address hold for: first shown, then done, a thousand at a time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from werkzeug.exceptions import BadRequest, NotFound
from werkzeug.wrappers import Response

from ...client import BULK_STATUSES, COUNTED_AT_MOST
from ...client.words import counted
from ...errors import DurableError
from ...model import Page, Run
from ..templating import STATUSES
from ..visit import Visit
from .asking import deed_of
from .runs import filters_of

__all__ = ["runs_do"]

AT_ONCE = 1000
_SHOWN = 20

_CONSEQUENCES: Mapping[str, tuple[str, ...]] = {
    "cancel": (
        "Those that have not begun end at once.",
        "The bodies of the others get RunCancelled where they have come to, and may clean up with steps.",
        "What they have registered with step.on_rollback is undone.",
        "What they have called and still goes on is cancelled, too.",
        "A cancelled run can't be resumed or retried: a fork or a replay is a new run.",
    ),
    "retry": (
        "Each goes on from the step that it failed of, which is done anew with all its attempts.",
        "Finished steps are kept.",
        "Those that were rolled back are left as they are: there is nothing left to go on from.",
    ),
    "resume": (
        "Each goes on from its last recorded step, whatever it was paused for.",
        "Those that the code that is deployed now does not fit are paused again.",
    ),
}


def runs_do(visit: Visit, action: str) -> Response:
    """The page of one action on many runs."""
    if action not in BULK_STATUSES:
        raise NotFound()
    visit.demand(action)
    given = filters_of(visit)
    if not given:
        raise BadRequest(
            f"Which runs? Choose on the list of runs what those that you want to {action} have in common: a status, a "
            "task, a time, a text."
        )
    meant = _meant(action, given)
    if visit.request.method == "POST":
        return _done(visit, action, meant)
    return _asked(visit, action, given, meant)


def _meant(action: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The filters, with only those statuses that the action is about."""
    chosen = given.get("status", STATUSES)
    statuses = [status for status in BULK_STATUSES[action] if status in chosen]
    if not statuses:
        said = " or ".join(chosen)
        wanted = ", ".join(BULK_STATUSES[action])
        raise BadRequest(
            f"There is nothing to {action} among runs that are {said}: it is about those that are {wanted}."
        )
    return {**given, "status": statuses}


def _asked(visit: Visit, action: str, given: Mapping[str, Any], meant: dict[str, Any], problem: str = "") -> Response:
    try:
        page: Page[Run] = visit.durable.runs(**meant, limit=_SHOWN)
        counts = visit.durable.counts(**meant)
        every = visit.durable.counts(status=meant["status"])
    except (TypeError, ValueError) as error:
        raise BadRequest(str(error)) from error
    total = sum(counts.values())
    exact = all(number < COUNTED_AT_MOST for number in counts.values())
    # What is started from here on is not among those that are shown.
    until = (page[0].created_at + timedelta(microseconds=1)).isoformat() if page else ""
    return visit.render(
        "bulk.html",
        400 if problem else 200,
        live=False,
        action=action,
        page=page,
        counts={status: _count(counts[status]) for status in meant["status"] if counts[status]},
        total=f"{total:,}" + ("" if exact else "+"),
        one=total == 1,
        many=total > AT_ONCE,
        wide=total > 1 and counts == every,
        lines=_CONSEQUENCES[action],
        filters={name: value for name, value in given.items() if name != "status"},
        until=until,
        problem=problem,
        typed=visit.request.form,
    )


def _done(visit: Visit, action: str, meant: dict[str, Any]) -> Response:
    form = visit.request.form
    until, after = form.get("until", ""), form.get("after") or None
    which = {**meant, **({"until": until} if until else {})}
    how: dict[str, Any] = deed_of(visit)
    if action == "cancel" and form.get("force") == "yes":
        how["force"] = True
    try:
        handled = getattr(visit.durable, f"{action}_all")(**which, limit=AT_ONCE, after=after, **how)
    except (DurableError, TypeError, ValueError) as error:
        return _asked(visit, action, filters_of(visit), meant, str(error))
    refused = [item for item in handled if not item.done]
    done = [item for item in handled if item.done]
    return visit.render(
        "bulk-done.html",
        live=False,
        action=action,
        said=f"{_PAST[action]} {counted(len(done), 'run')}",
        done=done,
        refused=refused,
        following=handled.next,
        until=until,
        typed=form,
    )


_PAST = {"cancel": "Cancelled", "retry": "Retried", "resume": "Resumed"}


def _count(number: int) -> str:
    return f"{number:,}" if number < COUNTED_AT_MOST else f"{COUNTED_AT_MOST:,}+"
