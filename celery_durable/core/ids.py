"""Names: what a step may be called, and how what it was given is told apart."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Any
from uuid import UUID

from ..errors import DurableError
from .codec import TAG, TAGGED

__all__ = [
    "MAX_ID",
    "RELEASE",
    "ROLLBACK",
    "check_name",
    "check_run_id",
    "check_step_id",
    "derived_id",
    "fingerprint",
    "gate_of",
    "numbered",
]

MAX_ID = 255
RELEASE = "/release"
"""What the id of a step that gives a lock back ends with, after the one that has taken it."""
ROLLBACK = "(rollback)"
"""The id of the record that a run's undos have begun."""


def check_name(value: object, what: str) -> str:
    """Refuse a name under which something could not be found again in every database."""
    if not isinstance(value, str):
        raise TypeError(f"{what} is a string, and this is {value!r:.100}: write it as one")
    if not value or value != value.strip() or not value.isprintable():
        raise ValueError(
            f"{value[:60]!r} can't be {what}: it must not be empty, begin or end with a space, "
            "or hold characters that can't be printed"
        )
    if len(value) > MAX_ID:
        raise ValueError(f"{value[:40]!r}... can't be {what}: it has {len(value)} characters; {MAX_ID} are the most")
    return value


def check_step_id(step_id: object) -> str:
    """Refuse what can't be a step's id."""
    if not isinstance(step_id, str):
        raise TypeError(f"a step's id comes first and is a string, and this is {step_id!r:.100}")
    return _checked_step_id(step_id)


@lru_cache(maxsize=4096)
def _checked_step_id(step_id: str) -> str:
    """Every pass asks by the same ids again."""
    return check_name(step_id, "a step's id")


def numbered(name: str, occurrence: int) -> str:
    """The id of the n-th use of an automatically named step: ``name``, ``name#2``, ``name#3``."""
    return name if occurrence == 1 else f"{name}#{occurrence}"


def fingerprint(encoded: str) -> str:
    """A short digest of an encoded input, to notice that it is another one. Equal mappings have one digest."""
    return _digest(encoded) if len(encoded) > _LONGEST_KEPT else _kept_digest(encoded)


def _digest(encoded: str) -> str:
    if encoded.count('":') > 1:
        value = json.loads(encoded)
        encoded = _in_order(_canonical(value) if TAGGED in encoded else value)
    return hashlib.blake2b(encoded.encode(), digest_size=12).hexdigest()


_in_order = json.JSONEncoder(sort_keys=True).encode  # json.dumps would make one for each
_LONGEST_KEPT = 300
_kept_digest = lru_cache(maxsize=4096)(_digest)
"""Every pass asks with the same inputs again."""


def _canonical(value: Any) -> Any:
    """The value with the pairs of encoded mappings in one order."""
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get(TAG) == "dict":
        return {
            TAG: "dict",
            "v": sorted(([_canonical(key), _canonical(item)] for key, item in value["v"]), key=json.dumps),
        }
    return {key: _canonical(item) for key, item in value.items()}


def check_run_id(run_id: object) -> str:
    """Refuse a task id that can't be a run's id."""
    well = isinstance(run_id, str) and run_id.isprintable() and run_id == run_id.strip()
    if not isinstance(run_id, str) or not well or not 0 < len(run_id) <= MAX_ID:
        raise DurableError(
            f"{run_id!r:.300} can't be a run's id: a task id of a durable task is a string of 1 to {MAX_ID} "
            "characters that can be printed, and does not begin or end with a space"
        )
    return run_id


def derived_id(*parts: str) -> str:
    """An id that the same parts always lead to, in the form of a UUID."""
    text = json.dumps(parts)
    return str(UUID(bytes=hashlib.blake2b(text.encode(), digest_size=16).digest(), version=5))


def gate_of(*parts: str) -> int:
    """The number of the lock for a name, or for a name and key: 64 bits, as PostgreSQL's are."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
