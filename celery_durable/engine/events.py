"""Events as steps: emitting one, and waiting for one.

A wait is a step that somebody else settles: whoever dispatches the event records it as the step's result, or
this run itself does, where the event came first or the time is up. Whichever is recorded stays, and is what
every later pass sees.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel

from ..core.boundary import Boundary, plain_form
from ..core.codec import decode, encode
from ..core.duration import Duration, as_datetime, describe, micros
from ..core.faults import read_error, summary, write_error
from ..core.ids import fingerprint
from ..core.match import check_event_key, check_event_name, check_match
from ..core.replay import Replay
from ..errors import EventTimeout, PayloadTooLarge, RunCancelled
from ..model import Event
from ..store.records import NewEvent, NewWait, StepWrite, StoredEvent
from .passing import Pass

__all__ = ["EVENT_GRACE", "OnTimeout", "emit_event", "event_of", "new_event", "wait_for"]

OnTimeout = Literal["none", "fail", "cancel"]

EVENT_GRACE = 3_000_000
"""Microseconds that the dispatch of a new event may take before the sweeper sends one."""

_CANCELLED = f"{RunCancelled.__module__}.{RunCancelled.__qualname__}"


def new_event(
    event_id: str, name: str, payload: Any, key: str | None, *, emitted_by: str | None = None, max_payload: int
) -> NewEvent:
    """An event to be recorded, once it is known to be one that can be."""
    check_event_name(name)
    what = f"the payload of the event {name!r}"
    text = encode(plain_form(payload, what), what)
    if len(text) > max_payload:
        raise PayloadTooLarge(
            f"{what} takes {len(text):,} bytes, and durable_max_payload is {max_payload:,}. Store it elsewhere and "
            "send where it is, or raise the setting."
        )
    content = json.dumps([name, check_event_key(key), fingerprint(text)])
    return NewEvent(event_id, name, key, text, fingerprint(content), emitted_by)


def event_of(stored: StoredEvent) -> Event:
    """An event as the body sees it."""
    return Event(
        id=stored.id,
        name=stored.name,
        key=stored.key,
        payload=decode(stored.payload),
        emitted_at=as_datetime(stored.emitted_at),
    )


# ------------------------------------------------------------------------- emit


def emit_event(run: Pass, id: str, name: str, payload: Any, key: str | None) -> str:
    """``step.emit``: the event and the step's record are one transaction, so it is emitted once."""
    step_id = run.take_id(id)
    event = new_event(
        run.new_event_id(), name, payload, key, emitted_by=run.run_id, max_payload=run.settings.max_payload
    )
    given = encode({"event": name, "key": key, "payload": decode(event.payload)})
    if not isinstance(run.decide(step_id, "emit", given), Replay):
        now = run.now()
        step = run.new_step(
            step_id, "emit", given, status="completed", result=encode(event.id), attempts=1, started_at=now,
            finished_at=now,
        )  # fmt: skip
        run.keep(
            step,
            lambda: run.store.emit_step(run.link, run.fence, step, event, EVENT_GRACE, run.lease_until(), run.patience),
        )
        run.dispatcher.emitted(event.id, name, key)
    return str(decode(run.history[step_id].result or "null"))


# ------------------------------------------------------------------------- wait


@dataclass(frozen=True)
class Wait:
    """What a body waits for, checked."""

    event: str
    key: str | None
    timeout: int | None
    on_timeout: OnTimeout
    match: dict[str, Any] | None
    form: type[BaseModel] | None
    prompt: str | None

    @classmethod
    def checked(
        cls,
        event: str,
        key: str | None,
        timeout: Duration | None,
        on_timeout: str,
        match: Mapping[str, Any] | None,
        form: Any,
        prompt: str | None,
    ) -> Wait:
        if on_timeout not in get_args(OnTimeout):
            raise ValueError(f'on_timeout={on_timeout!r}: "none", "fail" or "cancel" is expected')
        if on_timeout != "none" and timeout is None:
            raise ValueError(f"on_timeout={on_timeout!r} needs a timeout: without one the wait never ends")
        if form is not None and not (isinstance(form, type) and issubclass(form, BaseModel)):
            raise TypeError(f"form={form!r}: a pydantic model is expected, the class itself")
        if prompt is not None and not isinstance(prompt, str):
            raise TypeError(f"prompt={prompt!r}: a string is expected")
        return cls(
            check_event_name(event),
            check_event_key(key),
            None if timeout is None else micros(timeout),
            on_timeout,  # type: ignore[arg-type]
            check_match(match),
            form,
            prompt,
        )

    def given(self) -> str:
        """The step's input as it is recorded: what a person who answers has to know is in it."""
        given: dict[str, Any] = {"event": self.event, "key": self.key}
        if self.timeout is not None:
            given |= {"timeout": self.timeout / 1_000_000, "on_timeout": self.on_timeout}
        if self.match is not None:
            given["match"] = self.match
        if self.form is not None:
            given["form"] = self.form.model_json_schema()
        if self.prompt is not None:
            given["prompt"] = self.prompt
        return encode(given, f"what the wait for {self.event!r} is given")

    def __str__(self) -> str:
        key = "" if self.key is None else f" with the key {self.key!r}"
        return f"the event {self.event!r}{key}"


def wait_for(run: Pass, id: str, wait: Wait) -> Event | None:
    """``step.wait_for_event``."""
    step_id = run.take_id(id)
    given = run.measured(wait.given(), f"the input of step {step_id!r}")
    decision = run.decide(step_id, "wait", given, waiting_on=str(wait))
    if not isinstance(decision, Replay):
        if step_id in run.history:
            _end(run, step_id, given, wait)
        else:
            _begin(run, step_id, given, wait)
    return _answer(run, step_id, wait)


def _begin(run: Pass, step_id: str, given: str, wait: Wait) -> None:
    """Take the event that is there, or register and park."""
    now = run.now()
    deadline = None if wait.timeout is None else now + wait.timeout
    step = run.new_step(step_id, "wait", given, status="waiting", wake_at=deadline, started_at=now, attempts=1)
    match = None if wait.match is None else encode(wait.match)
    registered = NewWait(wait.event, wait.key, match, run.claim.created_at)
    if wait.timeout == 0:
        event = run.reaching(lambda: run.store.look(run.link, run.run_id, registered))
    else:
        event = run.park_unless_answered(deadline, str(wait), step=step, wait=registered)
    if event is None:
        run.write(_timed_out(run, step, wait))
        return
    taken = _settled(step, run.now(), result=encode(event_of(event)))
    run.keep(
        taken,
        lambda: run.store.take_event(run.link, run.fence, taken, event.seq, run.lease_until(), run.patience),
    )


def _end(run: Pass, step_id: str, given: str, wait: Wait) -> None:
    """The time is up, unless an event has come meanwhile: what is recorded first counts."""
    step = _timed_out(run, run.new_step(step_id, "wait", given, status="waiting", attempts=1), wait)
    record = run.reaching(lambda: run.store.end_wait(run.link, run.fence, step, run.lease_until(), run.patience))
    if record is None:
        run.lose()
    run.history[step_id] = record


def _timed_out(run: Pass, step: StepWrite, wait: Wait) -> StepWrite:
    """The step as it is to be recorded when no event came in time."""
    if wait.on_timeout == "none":
        return _settled(step, run.now(), result="null")
    message = (
        f"{wait} did not come within {describe(wait.timeout or 0)} (step {step.id!r} of run {run.run_id}): emit it "
        "in time, give the wait a longer timeout, or catch this"
    )
    error = EventTimeout(message) if wait.on_timeout == "fail" else RunCancelled(message)
    return _settled(step, run.now(), status="failed", error=write_error(error))


def _settled(step: StepWrite, now: int, **outcome: Any) -> StepWrite:
    return StepWrite(**vars(step) | {"status": "completed", "wake_at": None, "finished_at": now} | outcome)


def _answer(run: Pass, step_id: str, wait: Wait) -> Event | None:
    """What is recorded, as the body gets it."""
    record = run.history[step_id]
    if record.error is not None:
        told = summary(record.error)
        if told["type"] == _CANCELLED:
            run.cancel(told["message"])
        raise read_error(record.error)
    event = decode(record.result or "null")
    if event is None or wait.form is None:
        return event  # type: ignore[no-any-return]
    payload = Boundary(wait.form).typed(event.payload, f"the payload of {wait}, which step {step_id!r} waited for,")
    return event.model_copy(update={"payload": payload})  # type: ignore[no-any-return]
