"""A person answers a run: an event for one open wait, checked against the form that the wait has recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_jsonable_python

from ..core.codec import decode
from ..core.ids import derived_id
from ..core.match import matches
from ..engine.events import EVENT_GRACE, new_event
from ..engine.settings import Settings
from ..errors import ConfigurationError, EventConflict, InvalidAnswer, StepNotFound, WrongStatus
from ..model import FINISHED, EventReceipt
from ..store.records import Columns, NewEvent
from .deeds import deed_by
from .figures import Figures

__all__ = ["Answering"]


class Answering(Figures):
    """Answers to ``step.wait_for_event(..., form=, prompt=)``."""

    def answer(
        self, run_id: str, step_id: str, payload: Any, *, reason: str | None = None, by: str | None = None
    ) -> EventReceipt:
        """Emit the event that a step waits for, with this payload. Where the wait has a ``form``, it has to fit that.

        Raises ``InvalidAnswer`` where it does not, or where the wait's ``match`` would not take it, and ``WrongStatus``
        where the step does not wait, or has been given another answer: nothing is emitted then. The same answer may be
        given twice, and counts once. Other runs that wait for the same event get it, too.
        """
        deed = deed_by("answer", reason, by)

        def event_for(step: Columns, waits: Sequence[Columns]) -> NewEvent:
            given = self._given(run_id, step_id, step)
            what = f"step {step_id!r} of run {run_id!r}"
            # One wait has one answer: who repeats a call, not knowing what came of it, emits nothing that a later wait
            # would take.
            event_id = derived_id("answer", run_id, step_id, str(step["started_at"]))
            event = self._new_event(event_id, given["event"], payload, given["key"])
            stored = decode(event.payload)
            if given.get("form") is not None:
                _check_form(given["form"], stored, what)
            if not matches(given.get("match"), stored):
                raise InvalidAnswer(
                    f"{what} waits for an event with match={given['match']!r}, and this payload does not have these "
                    "values: it would not be taken, so nothing was emitted"
                )
            _check_others(step_id, given, stored, waits, what)
            return event

        try:
            with self._store.link() as link:
                found = self._store.answer(link, run_id, step_id, event_for, deed, EVENT_GRACE)
        except EventConflict as other:
            raise WrongStatus(
                f"step {step_id!r} of run {run_id!r} has just been given another answer, so this one was not emitted"
            ) from other
        if found is None:
            raise self._not_found(run_id)
        event, emitted = found
        self._announce(event)
        return EventReceipt(id=event.id, duplicate=not emitted)

    @staticmethod
    def _given(run_id: str, step_id: str, step: Columns) -> dict[str, Any]:
        """What the wait was given, if it is one that is open."""
        if step["kind"] is None:
            raise StepNotFound(
                f"run {run_id!r} has recorded no step {step_id!r}, so nobody waits there for an answer: "
                "Durable(app).get(...).steps lists what it has"
            )
        if step["kind"] != "wait":
            raise WrongStatus(f"step {step_id!r} of run {run_id!r} is no wait for an event: it can't be answered")
        if step["status"] != "waiting" or step["run_status"] in FINISHED:
            status = step["run_status"] if step["run_status"] in FINISHED else step["status"]
            raise WrongStatus(
                f"step {step_id!r} of run {run_id!r} does not wait any more ({status}): it can't be answered"
            )
        return dict(decode(step["input"]))

    # ----------------------------------------------------------------- hooks

    def _new_event(self, event_id: str, name: str, payload: Any, key: str | None) -> NewEvent:
        """An event to be recorded."""
        return new_event(event_id, name, payload, key, max_payload=Settings.max_payload)

    def _announce(self, event: NewEvent) -> None:
        """An event is recorded: it is due, and the sweeper of a worker has it dispatched."""


def _check_form(form: Mapping[str, Any], payload: Any, what: str) -> None:
    """Refuse a payload that the form's JSON schema does not hold for."""
    try:
        from jsonschema import Draft202012Validator
        from referencing import Registry
    except ImportError as error:
        raise ConfigurationError(
            f'{what} has a form, and what checks an answer is not installed: pip install "celery-durable[console]"'
        ) from error
    # A registry of its own: by default a reference to an address is looked up there.
    checker = Draft202012Validator(form, registry=Registry(), format_checker=Draft202012Validator.FORMAT_CHECKER)
    found = sorted(
        checker.iter_errors(to_jsonable_python(payload)), key=lambda error: list(map(str, error.absolute_path))
    )
    if found:
        problems = "; ".join(
            f"{'.'.join(map(str, each.absolute_path)) or 'the answer'}: {each.message}" for each in found
        )
        raise InvalidAnswer(f"the answer to {what} does not fit its form, so nothing was emitted: {problems}")


def _check_others(step_id: str, given: Mapping[str, Any], payload: Any, waits: Sequence[Columns], what: str) -> None:
    """Refuse an answer that another wait of the run would take: a run takes an event once, by its first wait."""
    for wait in waits:
        if wait["step_id"] == step_id:
            return
        same = wait["name"] == given["event"] and wait["key"] in (None, given["key"])
        if same and (wait["match"] is None or matches(decode(wait["match"]), payload)):
            raise WrongStatus(
                f"{what} waits for the same event as step {wait['step_id']!r}, which would take this answer. Answer "
                "that one first, and give waits that are open together keys of their own"
            )
