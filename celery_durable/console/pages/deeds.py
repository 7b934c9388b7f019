"""Who did what to which run, when and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Response

from ...model import AuditRecord
from ..visit import Visit

__all__ = ["deeds"]

PAGE = 100


def deeds(visit: Visit) -> Response:
    """A page of the audit log, newest first."""
    try:
        page = visit.durable.audit(limit=PAGE, after=visit.args.get("after") or None)
    except ValueError as error:
        raise BadRequest(str(error)) from error
    return visit.render(
        "deeds.html", page=page, rows=[(deed, *_details(deed)) for deed in page], first="after" not in visit.args
    )


def _details(deed: AuditRecord) -> tuple[str | None, str | None, Any]:
    """The run that came of it, the event that came of it, and what else is kept."""
    details = dict(deed.details) if isinstance(deed.details, Mapping) else deed.details
    if not isinstance(details, dict):
        return None, None, details
    run, event = details.pop("run", None), details.pop("event", None)
    return run, event, details or None
