"""The list of runs: which there are, found by what they have in common."""

from __future__ import annotations

from typing import Any

from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Response

from ...client import BULK_STATUSES, COUNTED_AT_MOST
from ...client.words import moment_or_ago
from ..templating import STATUSES
from ..visit import Visit

__all__ = ["FILTERS", "filters_of", "runs"]

PAGE = 50

FILTERS = ("status", "task", "since", "until", "search", "waiting_on", "parent", "event")
"""What the runs on the list may have in common; the parameters of ``Durable.runs``."""


def runs(visit: Visit) -> Response:
    """A page of the list, newest first."""
    given = filters_of(visit)
    others = {name: value for name, value in given.items() if name != "status"}
    try:
        page = visit.durable.runs(**given, limit=PAGE, after=visit.args.get("after") or None)
        counts = visit.durable.counts(**others)
    except (TypeError, ValueError) as error:
        raise BadRequest(str(error)) from error
    return visit.render(
        "runs.html",
        page=page,
        counts={name: _count(number) for name, number in counts.items()},
        total=_total(counts),
        shown=_shown(visit),
        chosen=given.get("status", []),
        filtered=bool(given),
        bulk=_bulk(visit, given, counts),
        tasks=[task.name for task in visit.durable.tasks()],
        first="after" not in visit.args,
    )


def _count(number: int) -> str:
    return f"{number:,}" if number < COUNTED_AT_MOST else f"{COUNTED_AT_MOST:,}+"


def _total(counts: dict[str, int]) -> str:
    exact = all(number < COUNTED_AT_MOST for number in counts.values())
    return f"{sum(counts.values()):,}" + ("" if exact else "+")


def filters_of(visit: Visit) -> dict[str, Any]:
    """The filters that stand in the address."""
    found: dict[str, Any] = {}
    for name in FILTERS:
        values = [value for value in visit.request.args.getlist(name) if value.strip()]
        if name == "status" and values:
            found["status"] = [value for value in values if value in STATUSES] or _no_status(values)
        elif name in ("since", "until") and values:
            found[name] = _moment(name, values[0])
        elif values:
            found[name] = values[0].strip()
    return found


def _no_status(values: list[str]) -> Any:
    raise BadRequest(f"There is no status {values[0]!r}: a run is {', '.join(STATUSES)}.")


def _moment(name: str, text: str) -> Any:
    try:
        return moment_or_ago(text)
    except ValueError as error:
        raise BadRequest(f"{name}: {error}") from error


def _shown(visit: Visit) -> dict[str, str]:
    """What the fields of the filters hold."""
    return {name: visit.args.get(name, "").strip() for name in FILTERS}


def _bulk(visit: Visit, given: dict[str, Any], counts: dict[str, int]) -> list[str]:
    """What can be done to all runs that are listed."""
    if not given:
        return []
    chosen = set(given.get("status", STATUSES))
    return [
        action
        for action, statuses in BULK_STATUSES.items()
        if visit.may(action) and any(counts[status] for status in chosen.intersection(statuses))
    ]
