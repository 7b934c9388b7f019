"""Emitting an event by hand: first what it would do, then the event's page, which shows what it did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from werkzeug.wrappers import Response

from ...client.words import counted
from ...core.match import check_event_id, check_event_key, check_event_name
from ...errors import DurableError, EventConflict, EventNotFound
from ..forms import jsonable
from ..texts import parse_json, text_of
from ..visit import Visit

__all__ = ["emit"]

_FIELDS = ("name", "key", "payload", "event_id", "reason")
_NAMED = 10


@dataclass
class Draft:
    """An event that is being written."""

    texts: dict[str, str]
    errors: dict[str, str]
    payload: Any = None

    @property
    def name(self) -> str:
        return self.texts["name"]

    @property
    def key(self) -> str | None:
        return self.texts["key"] or None


def emit(visit: Visit) -> Response:
    """The form, what it would come to, and the emitting itself."""
    visit.demand("emit")
    if visit.request.method == "GET":
        return _form(visit, _begun(visit))
    draft = _sent(visit)
    step = visit.request.form.get("do", "look")
    if step == "change" or draft.errors:
        return _form(visit, draft, 400 if draft.errors and step != "change" else 200)
    if step == "look":
        return _preview(visit, draft)
    return _emit(visit, draft)


def _begun(visit: Visit) -> Draft:
    """What the fields begin with: another event, or what stands in the address."""
    texts = {name: visit.args.get(name, "") for name in _FIELDS}
    if like := visit.args.get("like"):
        try:
            found = visit.durable.event(like)
        except EventNotFound:  # forgotten meanwhile
            return Draft(texts, {})
        texts |= {"name": found.name, "key": found.key or "", "payload": text_of("json", jsonable(found.payload)[0])}
    return Draft(texts, {})


def _sent(visit: Visit) -> Draft:
    form = visit.request.form
    texts = {name: form.get(name, "") if name == "payload" else form.get(name, "").strip() for name in _FIELDS}
    draft = Draft(texts, {})
    for name, check in (("name", check_event_name), ("key", check_event_key), ("event_id", check_event_id)):
        try:
            if texts[name] or name == "name":
                check(texts[name])
        except (TypeError, ValueError) as error:
            draft.errors[name] = str(error) if texts[name] else "This is needed."
    if texts["payload"].strip():
        try:
            draft.payload = parse_json(texts["payload"])
        except ValueError as error:
            draft.errors["payload"] = str(error)
    return draft


def _form(visit: Visit, draft: Draft, status: int = 200, problem: str = "") -> Response:
    return visit.render("emit.html", status, live=False, texts=draft.texts, errors=draft.errors, problem=problem)


def _preview(visit: Visit, draft: Draft) -> Response:
    waiting = visit.durable.waiting(draft.name, draft.key, limit=_NAMED)
    starts = visit.durable.triggered_by(draft.name)
    return visit.render(
        "emit-look.html",
        live=False,
        texts=draft.texts,
        payload=draft.payload,
        waiting=waiting,
        starts=starts,
        new_id=str(uuid4()),
        said=counted(waiting.total, "run"),
    )


def _emit(visit: Visit, draft: Draft) -> Response:
    typed = draft.texts["event_id"]
    event_id = typed or visit.request.form.get("new_id", "").strip() or None
    try:
        receipt = visit.durable.emit(
            draft.name,
            draft.payload,
            key=draft.key,
            event_id=event_id,
            by=visit.who,
            reason=draft.texts["reason"] or None,
        )
    except EventConflict as error:
        draft.errors["event_id"] = str(error)
        return _form(visit, draft, 409)
    except (DurableError, TypeError, ValueError) as error:
        return _form(visit, draft, 400, str(error))
    return visit.redirect("event", {"again": "1"} if receipt.duplicate and typed else None, event_id=receipt.id)
