"""Events as steps: emitting one, and waiting for one.

A wait is a step that somebody else settles: whoever dispatches the event records it as the step's result, or
this run itself does, where the event came first or the time is up. Whichever is recorded stays, and is what
every later pass sees.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel
from typing_extensions import TypedDict  # which comes with pydantic

from ..core.boundary import Boundary, plain_form
from ..core.codec import decode, encode, measured
from ..core.duration import Duration, as_datetime, describe, micros
from ..core.faults import read_error, write_error
from ..core.ids import fingerprint
from ..core.match import check_event_key, check_event_name, check_match
from ..core.replay import Park, Replay
from ..errors import EventTimeout, RunCancelled
from ..store.records import AnswerText, NewEvent, NewWait, StepWrite, StoredEvent
from .branch import DONE, Act, Branch, Opening, State, Waiting
from .passing import Pass

if TYPE_CHECKING:
    from ..model import Event

__all__ = [
    "EVENT_GRACE",
    "Emit",
    "EventWait",
    "OnTimeout",
    "Wait",
    "WaitOptions",
    "answer_text",
    "event_of",
    "new_event",
]

OnTimeout = Literal["none", "fail", "cancel"]


class WaitOptions(TypedDict, total=False):
    """What a wait may be given besides its time, for type checkers: whether it may return ``None`` is told by that."""

    key: str | None
    match: Mapping[str, Any] | None
    form: type[BaseModel] | None
    prompt: str | None


EVENT_GRACE = 3_000_000
"""Microseconds that the dispatch of a new event may take before the sweeper sends one."""


def new_event(
    event_id: str, name: str, payload: Any, key: str | None, *, emitted_by: str | None = None, max_payload: int
) -> NewEvent:
    """An event to be recorded, once it is known to be one that can be."""
    check_event_name(name)
    what = f"the payload of the event {name!r}"
    text = measured(encode(plain_form(payload, what), what), what, max_payload)
    content = json.dumps([name, check_event_key(key), fingerprint(text)])
    return NewEvent(event_id, name, key, text, fingerprint(content), emitted_by)


def event_of(stored: StoredEvent) -> Event:
    """An event as the body sees it."""
    from ..model import Event  # one that is emitted or waited for: a module that declares tasks has none

    return Event(
        id=stored.id,
        name=stored.name,
        key=stored.key,
        payload=decode(stored.payload),
        emitted_at=as_datetime(stored.emitted_at),
    )


def answer_text(event: NewEvent) -> AnswerText:
    """An event that is not recorded yet as a wait's answer, without its payload and its time."""
    text = encode(event_of(StoredEvent(0, event.id, event.name, event.key, "null", 0, 0, None)))
    before, _, rest = text.rpartition("null")
    between, _, after = rest.partition(as_datetime(0).isoformat())
    return AnswerText(before, between, after)


# ------------------------------------------------------------------------- emit


class Emit(Branch):
    """``step.emit``: the event and the step's record are one transaction, so it is emitted once."""

    kind = "emit"

    def __init__(self, run: Pass, id: str, name: str, payload: Any, key: str | None) -> None:
        step_id = run.take_id(id)
        self.event = new_event(
            run.new_event_id(), name, payload, key, emitted_by=run.run_id, max_payload=run.settings.max_payload
        )
        super().__init__(run, step_id, encode({"event": name, "key": key, "payload": decode(self.event.payload)}))

    def look(self) -> State:
        return DONE if isinstance(self.ask(), Replay) else Act(self._emit)

    def _emit(self) -> None:
        run, event = self.run, self.event
        now = run.now()
        step = self.new_row(
            status="completed", result=encode(event.id), attempts=1, started_at=now, finished_at=now,
            seen=run.next_place(),
        )  # fmt: skip
        run.keep(
            step,
            lambda: run.store.emit_step(run.link, run.fence, step, event, EVENT_GRACE, run.lease_until(), run.patience),
        )
        run.dispatcher.emitted(event.id, event.name, event.key)

    def value(self) -> Any:
        return str(self.run.read(self.run.history[self.id].result))


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


class EventWait(Branch):
    """``step.wait_for_event``."""

    kind = "wait"

    def __init__(self, run: Pass, id: str, wait: Wait) -> None:
        step_id = run.take_id(id)
        super().__init__(run, step_id, run.measured(wait.given(), f"the input of step {step_id!r}"))
        self.wait = wait

    def look(self) -> State:
        decision = self.ask()
        if isinstance(decision, Replay):
            return DONE
        if isinstance(decision, Park):
            return Waiting(decision.wake_at, str(self.wait), outside=True)
        if self.id in self.run.history:
            return Act(self._end)
        if self.wait.timeout == 0:
            return Act(self._take_now)
        step = self._new()
        return Waiting(step.wake_at, str(self.wait), Opening(step, wait=self._registered()), outside=True)

    def _new(self) -> StepWrite:
        now, timeout = self.run.now(), self.wait.timeout
        deadline = None if timeout is None else now + timeout
        return self.new_row(status="waiting", wake_at=deadline, started_at=now, attempts=1)

    def _registered(self) -> NewWait:
        match = None if self.wait.match is None else encode(self.wait.match)
        return NewWait(self.wait.event, self.wait.key, match, self.run.claim.created_at)

    def _take_now(self) -> None:
        """The time is up at once: it has only what is there."""
        run, registered = self.run, self._registered()
        event = run.reaching(lambda: run.store.look(run.link, run.run_id, registered))
        if event is None:
            run.write_all([self._timed_out(self._new())])
        else:
            self.take(event)

    def take(self, event: StoredEvent) -> None:
        run = self.run
        taken = self._settled(self._new(), result=encode(event_of(event)))
        run.keep(
            taken,
            lambda: run.store.take_event(run.link, run.fence, taken, event.seq, run.lease_until(), run.patience),
        )

    def _end(self) -> None:
        """The time is up, unless an event has come meanwhile: what is recorded first counts."""
        run = self.run
        step = self._timed_out(self.new_row(status="waiting", attempts=1))
        record = run.reaching(lambda: run.store.end_wait(run.link, run.fence, step, run.lease_until(), run.patience))
        if record is None:
            run.lose()
        run.history[self.id] = record

    def _timed_out(self, step: StepWrite) -> StepWrite:
        """The step as it is to be recorded when no event came in time."""
        wait, run = self.wait, self.run
        if wait.on_timeout == "none":
            return self._settled(step, result="null")
        message = (
            f"{wait} did not come within {describe(wait.timeout or 0)} (step {step.id!r} of run {run.run_id}): emit it "
            "in time, give the wait a longer timeout, or catch this"
        )
        error = EventTimeout(message) if wait.on_timeout == "fail" else RunCancelled(message)
        return self._settled(step, status="failed", error=write_error(error))

    def _settled(self, step: StepWrite, **outcome: Any) -> StepWrite:
        outcome = {"status": "completed", "wake_at": None, "finished_at": self.run.now()} | outcome
        return step._replace(seen=self.run.next_place(), **outcome)

    def error(self) -> BaseException:
        # Not one that a retry of the run starts over: the time is up, whoever asks again.
        return read_error(self.run.history[self.id].error or "{}")

    def value(self) -> Any:
        event = self.run.read(self.run.history[self.id].result)
        form = self.wait.form
        if event is None or form is None:
            return event
        what = f"the payload of {self.wait}, which step {self.id!r} waited for,"
        return event.model_copy(update={"payload": Boundary(form).typed(event.payload, what)})
