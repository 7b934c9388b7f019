"""The theory of operation, and the one decision that carries it out.

A run is a function that is called again and again from its first line. Each call is a *pass*. What
the function needs from the world it asks for through a verb, under a *step id*; and each answer is
recorded in the database before the function sees it. So a later pass, in whatever process, gets the
same answers in the same places and comes to where the last one stopped, without doing anything twice.

At each verb there is one question: given the run's history and what the body asks now, what happens?

* it is recorded                      -> **Replay** the answer (a value, or an error to raise)
* nothing is recorded                 -> **Perform** it, record the outcome, go on
* it is recorded as waiting, not due  -> **Park** the run, once nothing else of it goes on: it leaves the worker
* it is waiting, and due              -> a sleep is over; an attempt is made again; no event came in time
* it began and was never heard of, and must not begin twice -> **Interrupted**
* another kind of step was recorded   -> **Mismatch**: this code does not fit this run

That is all. The function below is pure: it has no clock, no database and no Celery, and it is the
only place where this is decided, for every verb.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = [
    "Ask",
    "Decision",
    "Interrupted",
    "Mismatch",
    "Park",
    "Perform",
    "Record",
    "Replay",
    "decide",
]


class Record(NamedTuple):
    """One step as the history holds it. A tuple: one is made for every recorded step of every pass."""

    id: str
    kind: str
    status: str  # started | waiting | completed | failed | cancelled
    position: int = 0
    input_hash: str = ""
    result: str | None = None
    error: str | None = None
    attempts: int = 0
    wake_at: int | None = None
    heartbeat: str | None = None
    child: str | None = None
    seen: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    tries: str | None = None
    """Its failed attempts so far, where it may have another."""


class Ask(NamedTuple):
    """What the body asks for now. A tuple, as is its answer: one of each is made for every step of every pass."""

    id: str
    kind: str
    input_hash: str = ""
    strict_input: bool = False
    at_most_once: bool = False


class Replay(NamedTuple):
    """The answer is known. ``input_changed``: the question is not the one that was answered."""

    record: Record
    input_changed: bool = False


class Perform(NamedTuple):
    """Do it now. ``known`` tells that the step has a row already."""

    attempt: int = 1
    known: bool = False
    heartbeat: str | None = None
    input_changed: bool = False


@dataclass(frozen=True)
class Park:
    """Not yet: the run waits until then."""

    wake_at: int | None
    record: Record


@dataclass(frozen=True)
class Interrupted:
    """It began once and may not begin twice."""

    record: Record


@dataclass(frozen=True)
class Mismatch:
    """The code does not fit the history."""

    recorded: Record
    asked: Ask
    why: str = field(default="")


Decision = Replay | Perform | Park | Interrupted | Mismatch


_ANSWERED = frozenset({"wait", "call", "lock"})
"""Kinds of steps that somebody else answers."""


def decide(record: Record | None, ask: Ask, now: int) -> Decision:
    """What to do about ``ask``, given its record (if it has one) and the time."""
    if record is None:
        return Perform()
    if record.kind != ask.kind:
        return Mismatch(record, ask, "kind")
    changed = bool(record.input_hash) and record.input_hash != ask.input_hash
    if changed and ask.strict_input:
        return Mismatch(record, ask, "input")
    if record.status in ("completed", "failed", "cancelled"):
        return Replay(record, changed)
    if record.status == "started":
        if ask.at_most_once:
            return Interrupted(record)
        return Perform(max(record.attempts, 1), True, record.heartbeat, changed)
    if record.wake_at is None and ask.kind in _ANSWERED and record.attempts:
        return Park(None, record)
    if record.wake_at is not None and record.wake_at > now:
        return Park(record.wake_at, record)
    if ask.kind == "sleep":
        return Replay(record, changed)
    return Perform(record.attempts + 1, True, record.heartbeat, changed)
