"""The failed attempts of a step that was tried again, as they are kept for people: when each was, what it failed of.

Each is appended by the write that has the step tried again. No replay asks for them, and of a step that a body has its
answer of they are not loaded.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from ..errors import DamagedRecord
from .codec import read_json
from .faults import summary

__all__ = ["Try", "read_tries", "with_try"]

_KEPT = 20
_MAX_MESSAGE = 500


class Try(NamedTuple):
    """One failed attempt."""

    number: int
    started_at: int | None
    finished_at: int | None
    type: str
    message: str


def with_try(tries: str | None, attempt: int, started_at: int | None, finished_at: int | None, error: str) -> str:
    """The record of failed attempts with one more, whose error is recorded so; the newest are kept.

    They are counted on where a person has had the run retried and ``attempt`` begins at 1 again.
    """
    kept = read_tries(tries)
    told = summary(error)
    message = told["message"]
    if len(message) > _MAX_MESSAGE:
        message = f"{message[: _MAX_MESSAGE - 3]}..."
    number = max(attempt, kept[-1].number + 1 if kept else 1)
    kept.append(Try(number, started_at, finished_at, told["type"], message))
    return json.dumps(kept[-_KEPT:], separators=(",", ":"))


def read_tries(tries: str | None) -> list[Try]:
    """The failed attempts of a record, in their order; none where it is damaged, as no run is to stop for that."""
    if tries is None:
        return []
    try:
        return [Try(*one) for one in read_json(tries, list) if _is_try(one)]
    except DamagedRecord:
        return []


def _is_try(one: object) -> bool:
    if type(one) is not list or len(one) != len(Try._fields):
        return False
    number, started_at, finished_at, *texts = one
    times = [at for at in (started_at, finished_at) if at is not None]
    return all(type(each) is int for each in (number, *times)) and all(type(each) is str for each in texts)
