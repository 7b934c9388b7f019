"""The log of events, and one of them with what it did."""

from __future__ import annotations

from typing import Any

from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Response

from ...client.words import moment_or_ago
from ..visit import Visit

__all__ = ["event", "events"]

PAGE = 50
_TAKERS = 100

FILTERS = ("name", "key", "since")


def events(visit: Visit) -> Response:
    """A page of the log, newest first."""
    shown = {name: visit.args.get(name, "").strip() for name in FILTERS}
    given: dict[str, Any] = {name: value for name, value in shown.items() if value}
    try:
        if "since" in given:
            given["since"] = moment_or_ago(given["since"])
        page = visit.durable.events(**given, limit=PAGE, after=visit.args.get("after") or None)
    except (TypeError, ValueError) as error:
        raise BadRequest(str(error)) from error
    return visit.render("events.html", page=page, shown=shown, filtered=bool(given), first="after" not in visit.args)


def event(visit: Visit, event_id: str) -> Response:
    """One event: what it holds, whom it woke, what it started. Looked at live, it shows that as it happens."""
    found = visit.durable.event(event_id)
    runs = visit.durable.runs(event=event_id, limit=_TAKERS)
    started = set(found.started)
    return visit.render(
        "event.html",
        event=found,
        takers=[(run, run.id in started) for run in runs],
        more=found.woke_total + found.started_total - len(runs),
        again=visit.args.get("again") == "1",
    )
