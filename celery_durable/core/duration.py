"""Durations and points in time as users write them.

Inside the package a duration is a number of microseconds and a point in time is microseconds
since the epoch, UTC: whole numbers that mean the same in every database and on every host.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta, timezone
from functools import lru_cache

__all__ = ["Duration", "Moment", "as_datetime", "describe", "micros", "moment"]

Duration = str | int | float | timedelta
Moment = datetime | str | int | float

SECOND = 1_000_000
_UNITS = {
    "us": 1,
    "ms": 1_000,
    "s": SECOND,
    "m": 60 * SECOND,
    "h": 3_600 * SECOND,
    "d": 86_400 * SECOND,
    "w": 604_800 * SECOND,
}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d|w)\s*")
_LONGEST = 100 * 366 * 86_400 * SECOND
_FORMS = 'write it as "30s", "5m", "1h30m", "3d", "2w", a timedelta, or seconds as a number'


def micros(duration: Duration) -> int:
    """A duration in microseconds. Raises ``ValueError`` or ``TypeError`` for anything else."""
    if isinstance(duration, timedelta):
        value = duration // timedelta(microseconds=1)
    elif isinstance(duration, bool) or not isinstance(duration, (str, int, float)):
        raise TypeError(f"{duration!r:.100} is no duration: {_FORMS}")
    elif isinstance(duration, str):
        value = _parse(duration)
    elif isinstance(duration, float) and not math.isfinite(duration):
        raise ValueError(f"{duration!r:.100} is no duration: {_FORMS}")
    elif abs(duration) > _LONGEST:  # in seconds, so it is out of bounds; a float could overflow
        value = _LONGEST + 1 if duration > 0 else -1
    else:
        value = round(duration * SECOND)
    if value < 0:
        raise ValueError(f"a duration can't be negative, and {duration!r:.100} is")
    if value > _LONGEST:
        raise ValueError(f"{duration!r:.100} is longer than 100 years, the longest duration there is")
    return value


@lru_cache(maxsize=1024)  # every pass reads the same ones
def _parse(text: str) -> int:
    total, end = 0.0, 0
    while end < len(text):
        part = _PART.match(text, end)
        if part is None:
            raise ValueError(f"{text!r:.100} is no duration: {_FORMS}")
        total += float(part[1]) * _UNITS[part[2]]
        end = part.end()
    if not end:
        raise ValueError(f"{text!r:.100} is no duration: {_FORMS}")
    return round(min(total, _LONGEST + 1.0))


def moment(when: Moment) -> int:
    """A point in time in microseconds since the epoch. A time without an offset is refused."""
    if isinstance(when, str):
        try:
            when = datetime.fromisoformat(when.replace("Z", "+00:00") if when.endswith("Z") else when)
        except ValueError:
            raise ValueError(
                f'{when!r:.100} is no point in time: write ISO 8601 with an offset, such as "2026-11-21T09:00:00+00:00"'
            ) from None
    if isinstance(when, datetime):
        if when.tzinfo is None or when.utcoffset() is None:
            raise ValueError(
                f"{when.isoformat()} has no time zone, so it is another moment on every host: "
                "use an aware datetime, such as datetime.now(timezone.utc)"
            )
        return (when - _EPOCH) // timedelta(microseconds=1)
    if isinstance(when, bool) or not isinstance(when, (int, float)):
        raise TypeError(
            f"{when!r:.100} is no point in time: use an aware datetime, ISO 8601 with an offset, or seconds since the "
            "epoch"
        )
    if not _YEAR_1 <= when < _YEAR_10000:  # false for nan, too
        raise ValueError(f"{when!r:.100} is no point in time: seconds since the epoch are expected")
    return round(when * SECOND)


_YEAR_1, _YEAR_10000 = -62_135_596_800, 253_402_300_800
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def as_datetime(instant: int) -> datetime:
    """The aware UTC ``datetime`` of a stored point in time."""
    return _EPOCH + timedelta(microseconds=instant)


def describe(duration: int) -> str:
    """A duration as a person would write it, in its two largest units."""
    parts, rest = [], duration
    for unit in ("w", "d", "h", "m", "s", "ms"):
        count, rest = divmod(rest, _UNITS[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:2]) or "0s"
