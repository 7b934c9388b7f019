"""Ids in addresses: whatever a run, a step or an event is called, its page has an address that no proxy changes."""

from __future__ import annotations

import base64
import re
from typing import Any

from werkzeug.routing import BaseConverter, ValidationError

__all__ = ["SegmentConverter", "from_segment", "to_segment"]

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@=,+-]*")


def to_segment(id: str) -> str:
    """An id as one segment of a path: as it is where that is safe, else encoded behind a ``~``."""
    if _PLAIN.fullmatch(id):
        return id
    return "~" + base64.urlsafe_b64encode(id.encode("utf-8", "surrogatepass")).decode("ascii").rstrip("=")


def from_segment(segment: str) -> str:
    """The id that a segment stands for. Raises ``ValueError`` for one that stands for none."""
    if not segment.startswith("~"):
        return segment
    text = segment[1:]
    found = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("utf-8", "surrogatepass")
    if to_segment(found) != segment:
        raise ValueError(f"{segment!r} is no id of an address")
    return found


class SegmentConverter(BaseConverter):
    """``<segment:run_id>`` in a rule."""

    regex = "[^/]+"

    def to_python(self, value: str) -> str:
        try:
            return from_segment(value)
        except ValueError:
            raise ValidationError from None

    def to_url(self, value: Any) -> str:
        return super().to_url(to_segment(str(value)))
