"""Answering a run that waits for an event: by the form that the wait has, or with any payload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response

from ...client.words import counted
from ...errors import StepNotFound
from ...model import Run, StepRecord
from ..forms import Form
from ..visit import Visit
from .asking import Ask, asking, cannot, deed_of, do

__all__ = ["answer"]


def answer(visit: Visit, run_id: str) -> Response:
    """The page of an answer."""
    run = visit.durable.get(run_id, values=False)
    waits = [step.id for step in run.steps if step.kind == "wait" and step.status == "waiting"]
    wanted = visit.args.get("step") or (waits[0] if len(waits) == 1 else "")
    if not wanted and waits:
        return visit.render("answer-which.html", live=False, run=run, steps=visit.durable.steps(run_id, waits))
    if not wanted:
        return cannot(visit, "answer", run, "It waits for no event now.")
    step = _step(visit, run, wanted)
    if step.status != "waiting":
        return cannot(visit, "answer", run, f"Its step {step.id!r} does not wait any more: it is {step.status}.")
    asked: Mapping[str, Any] = step.input if isinstance(step.input, Mapping) else {}
    form = Form(asked["form"]) if isinstance(asked.get("form"), Mapping) else Form({})
    ask = Ask("answer", run, _title(asked), "Send the answer", _lines(visit, step, asked))
    errors: dict[str, str] = {}
    typed = visit.request.form.to_dict()
    ask.more = {"step": step, "asked": asked, "form": form, "texts": typed, "errors": errors}
    if visit.request.method == "GET":
        return asking(visit, ask, "answer.html")
    filled = form.read(typed)
    errors.update(filled.errors)
    if errors:
        return asking(
            visit, ask, "answer.html", problem=f"{counted(len(errors), 'field')} to look at again.", status=400
        )

    def send() -> Run:
        visit.durable.answer(run.id, step.id, filled.value, **deed_of(visit))
        return run

    return do(visit, ask, send, "answer.html")


def _step(visit: Visit, run: Run, step_id: str) -> StepRecord:
    found = visit.durable.steps(run.id, [step_id])
    if not found:
        raise StepNotFound(f"Run {run.id!r} has recorded no step {step_id!r}.")
    if found[0].kind != "wait":
        raise NotFound(f"The step {step_id!r} of run {run.id!r} waits for no event.")
    return found[0]


def _title(asked: Mapping[str, Any]) -> str:
    return str(asked.get("prompt") or f"Answer the wait for {asked.get('event')!r}?")


def _lines(visit: Visit, step: StepRecord, asked: Mapping[str, Any]) -> list[str]:
    event, key = str(asked.get("event")), asked.get("key")
    with_key = f" with the key {key!r}" if key is not None else ""
    lines = [f"The event {event!r}{with_key} is emitted, and the run goes on with what you fill in as its payload."]
    others = visit.durable.waiting(event, key).total - 1
    if others > 0:
        waits = "waits" if others == 1 else "wait"
        lines.append(f"{counted(others, 'other run')} {waits} for it, too, and would take the same answer.")
    started = visit.durable.triggered_by(event)
    if started:
        lines.append(f"It also starts a run of {', '.join(started)}, where its trigger holds for the payload.")
    return lines
