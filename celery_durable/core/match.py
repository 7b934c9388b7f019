"""Which event answers which question: names with a wildcard, and mappings of payload paths to values.

    matches({"plan": "pro", "items.0.sku": "a-1"}, payload)

holds when every path leads somewhere in the payload and finds an equal value there. A path goes down
by keys and list indexes, parted by dots; a key that holds dots itself is found, too. Values are equal
as JSON sees them, so that ``True`` is not ``1`` and a tuple is a list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .codec import decode, encode
from .ids import check_name

__all__ = ["check_event_id", "check_event_key", "check_event_name", "check_match", "check_pattern", "covers", "matches"]


def check_event_name(name: object) -> str:
    """Refuse a name that no event can have."""
    checked = check_name(name, "an event's name")
    if checked.endswith("*"):
        raise ValueError(f"{name!r} can't be an event's name: a trailing * is the wildcard of on_event")
    return checked


def check_event_key(key: object) -> str | None:
    """Refuse what can't be an event's key."""
    return None if key is None else check_name(key, "an event's key")


def check_event_id(event_id: object) -> str:
    """Refuse what can't be an event's id."""
    return check_name(event_id, "an event_id")


def check_pattern(pattern: object) -> str:
    """A name, or the beginning of names with a trailing ``*``."""
    if pattern == "*":
        return "*"
    if not isinstance(pattern, str) or not pattern.endswith("*"):
        return check_event_name(pattern)
    if "*" in pattern[:-1]:
        raise ValueError(f"{pattern!r:.100}: a * is a wildcard at the end of a name only")
    return check_event_name(pattern[:-1]) + "*"


def covers(pattern: str, name: str) -> bool:
    """Whether a pattern that :func:`check_pattern` has passed holds for a name."""
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def check_match(match: object) -> dict[str, Any] | None:
    """Refuse what is no mapping of paths to values."""
    if match is None:
        return None
    if not isinstance(match, Mapping) or not all(isinstance(path, str) and path for path in match):
        raise TypeError(
            f'a mapping of payload paths to values is expected, such as {{"plan": "pro"}}, not {match!r:.100}'
        )
    return dict(decode(encode(dict(match), "what is to match")))  # as a stored payload is: an enum is its value


def matches(match: Mapping[str, Any] | None, payload: Any) -> bool:
    """Whether a payload has all these values at these paths."""
    if not match:
        return True
    return all(any(_equal(found, value) for found in _at(path, payload)) for path, value in match.items())


def _at(path: str, value: Any) -> list[Any]:
    """What a path leads to: nothing, one thing, or several where keys hold dots."""
    if isinstance(value, Mapping):
        found = [value[path]] if path in value else []
        parts = path.split(".")
        for count in range(1, len(parts)):
            head = ".".join(parts[:count])
            if head in value:
                found += _at(".".join(parts[count:]), value[head])
        return found
    if isinstance(value, (list, tuple)):
        head, dot, rest = path.partition(".")
        # isdecimal also holds for digits of other scripts, which int() reads: an index is written in ASCII.
        if head.isascii() and head.isdecimal() and len(head) < 10 and int(head) < len(value):
            return _at(rest, value[int(head)]) if dot else [value[int(head)]]
    return []


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    try:
        return bool(one == other)
    except Exception:  # two values that can't be compared, such as a naive time and an aware one
        return False
