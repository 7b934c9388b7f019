"""What a field holds as text, and what value a text stands for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date, datetime, time
from typing import Any
from uuid import UUID

__all__ = ["parse", "parse_json", "text_of", "widget_of"]

_NUMBER = re.compile(r"-?\d{1,400}(?:\.\d{1,400})?(?:[eE][+-]?\d{1,3})?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,400}", re.ASCII)
_OFFSET = re.compile(r"(?:[zZ]|[+-]\d{2}:?\d{2})$")
_UTC = re.compile(r"(?:Z|[+-]00:00)$")
_PICKED = {
    "date": re.compile(r"\d{4}-\d\d-\d\d"),
    "time": re.compile(r"\d\d:\d\d(?::\d\d(?:\.\d{1,3})?)?"),
    "datetime": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d{1,3})?)?"),
    "integer": _WHOLE,
    "number": _NUMBER,
}
_WIDGETS = {"date": "date", "time": "time", "datetime": "datetime-local", "integer": "number", "number": "number"}


def text_of(kind: str, value: Any) -> str:
    """What a field of this kind holds for a value. One that it can't hold is still shown."""
    if kind == "json":
        return json.dumps(value, indent=2, ensure_ascii=False)
    if kind in ("choice", "boolean"):
        return json.dumps(value)
    if value is None:
        return ""
    if isinstance(value, str):
        return _UTC.sub("", value) if kind == "datetime" else value
    return json.dumps(value, ensure_ascii=False)


def widget_of(kind: str, text: str) -> str:
    """The type of the ``input`` that can show this text: one that picks or counts drops whatever it can't."""
    if kind == "secret":
        return "password"
    if kind in _WIDGETS and (not text or _PICKED[kind].fullmatch(text)):
        return _WIDGETS[kind]
    return "text"


def parse(kind: str, text: str) -> Any:
    """The value of a text. Raises ``ValueError``, which says what is expected."""
    return _PARSERS[kind](text if kind in ("text", "secret", "json") else text.strip())


def parse_json(text: str) -> Any:
    """A text as JSON, with what is wrong said so that it can be found."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if "\n" in text else f"character {error.colno}"
        hint = f" A text stands in quotes: {json.dumps(text.strip())}" if _is_bare(text) else ""
        raise ValueError(f"This is no JSON: {error.msg} at {where}.{hint}") from None
    except RecursionError:
        raise ValueError("This is nested too deeply.") from None


def _is_bare(text: str) -> bool:
    return len(text) <= 80 and re.fullmatch(r"[\w][^\"{}\[\]\n]*", text.strip()) is not None


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON.")


def _whole(text: str) -> int:
    if _WHOLE.fullmatch(text):
        return int(text)
    raise ValueError("A whole number is expected.")


def _number(text: str) -> int | float:
    if _NUMBER.fullmatch(text):
        value: int | float = json.loads(re.sub(r"^(-?)0+(?=\d)", r"\1", text))
        if abs(value) != float("inf"):
            return value
    raise ValueError("A number is expected, such as 99.9.")


def _decimal(text: str) -> int | float | str:
    """As a number where that says the same, else as it is written: ``10.50`` is no ``10.5``."""
    if _NUMBER.fullmatch(text) and json.dumps(value := _number(text)) == text:
        return value
    return text


def _chosen(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError("Choose one of these.") from None


def _date(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise ValueError("A date is expected, such as 2026-11-21.") from None


def _time(text: str) -> str:
    try:
        time.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError("A time of day is expected, such as 09:30 or 09:30:00.") from None
    return f"{text}:00" if len(text) == 5 else text


def _datetime(text: str) -> str:
    """With its offset; without one it is UTC."""
    given = text if _OFFSET.search(text) else f"{text}Z"
    try:
        datetime.fromisoformat(given.upper().replace("Z", "+00:00"))
    except ValueError:
        raise ValueError(
            "A point in time is expected, such as 2026-11-21T09:30 (UTC) or 2026-11-21T09:30+01:00."
        ) from None
    return re.sub(r"(T\d\d:\d\d)(?=Z|[+-])", r"\1:00", given)


def _uuid(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        raise ValueError("A UUID is expected, such as 0b9d8f1e-3c4b-4a57-9f6e-2a1d5c7b8e90.") from None


_PARSERS: dict[str, Callable[[str], Any]] = {
    "text": str, "secret": str, "integer": _whole, "number": _number, "decimal": _decimal, "boolean": _chosen,
    "choice": _chosen, "date": _date, "datetime": _datetime, "time": _time, "uuid": _uuid, "json": parse_json,
}  # fmt: skip
