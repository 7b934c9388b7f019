"""Errors as records and back.

An error is rebuilt as its own type where that is safe and faithful, and as ``StepFailed`` otherwise;
what the body catches is therefore the same on the first pass and on every replay. A record can't make
a process import a package that it does not use already: a type is only looked up in modules that are
loaded, or in a submodule of a package that is.
"""

from __future__ import annotations

import builtins
import importlib
import json
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import NotSerializable, StepFailed, add_note
from .codec import decode, encode

__all__ = ["bounded_error", "read_error", "summary", "with_notes", "write_error"]

_MAX_TRACEBACK = 16_000
_ELLIPSIS = "\n...\n"


Redact = Callable[[str], str]


def write_error(error: BaseException, note: str | None = None, redact: Redact = str) -> str:
    """The record of an error, with one note more than it has. ``redact`` takes secrets out of its texts."""
    return _text(_record(error, note, redact))


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":"))


def _record(error: BaseException, note: str | None, redact: Redact) -> dict[str, Any]:
    kind = type(error)
    record: dict[str, Any] = {
        "type": f"{kind.__module__}:{kind.__qualname__}",
        "message": redact(_message(error)),
        "traceback": _traceback(error, redact),
        "notes": [redact(str(item)) for item in getattr(error, "__notes__", ())] + ([note] if note else []),
    }
    if isinstance(error, Exception):
        try:
            record["args"] = encode(_redacted(_arguments(error), redact))
        except NotSerializable:
            pass
        else:
            record["state"], record["lost"] = _state(error, redact)
            rebuilt = _rebuild(record)
            if rebuilt is None or type(rebuilt) is not kind or _message(rebuilt) != record["message"]:
                del record["args"], record["state"]
    return record


def bounded_error(error: BaseException, limit: int, note: str | None = None, redact: Redact = str) -> str:
    """The record of an error, shortened where it is larger than a stored value may be.

    The traceback goes first: how deep the folders of an installation are decides nothing about an error's type.
    """
    record = _record(error, note, redact)
    text = _text(record)
    if len(text) <= limit:
        return text
    cut = len(text) - limit + len(_text({"": _ELLIPSIS}))
    record["traceback"] = _cut(record["traceback"], max(0, len(record["traceback"]) - cut))
    if len(text := _text(record)) <= limit:
        return text
    message = redact(_message(error)[:4000])[:1000]  # redacted first: a secret that is cut in two is not known as one
    short = f"{type(error).__qualname__}: {message}... (the error was too large to store)"
    return write_error(StepFailed(short), note)


def with_notes(text: str, notes: Iterable[str]) -> str:
    """The record of an error with more notes."""
    record = json.loads(text)
    record["notes"] = [*record.get("notes", ()), *notes]
    return _text(record)


def read_error(text: str, otherwise: type[Exception] = StepFailed) -> Exception:
    """The error of a record: its own type, or another where that can't be rebuilt."""
    record = json.loads(text)
    error = _rebuild(record)
    if error is None:
        name = str(record["type"]).replace("builtins:", "").replace(":", ".")
        error = otherwise(f"{name}: {record['message']}")
    for note in record.get("notes", ()):
        add_note(error, note)
    if record.get("lost"):
        add_note(error, f"not kept with the record: the attributes {', '.join(record['lost'])}")
    return error


def summary(text: str) -> dict[str, Any]:
    """The parts of a record that people read."""
    record = json.loads(text)
    return {
        "type": str(record["type"]).replace("builtins:", "").replace(":", "."),
        "message": record["message"],
        "traceback": record.get("traceback"),
        "notes": tuple(record.get("notes", ())),
    }


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"<its message can't be made: {type(broken).__name__}>"


def _traceback(error: BaseException, redact: Redact) -> str:
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    return _cut(redact(_cut(text, 4 * _MAX_TRACEBACK)), _MAX_TRACEBACK)


def _cut(text: str, length: int) -> str:
    """The beginning and the end of a long text."""
    half = length // 2
    return text if len(text) <= length else f"{text[:half]}{_ELLIPSIS}{text[len(text) - half :]}"


def _arguments(error: Exception) -> list[Any]:
    if isinstance(error, OSError):  # keeps its file name out of args, and in what pickle would take
        return list(error.__reduce__()[1])
    return list(error.args)


def _redacted(value: Any, redact: Redact) -> Any:
    """The value with the secrets taken out of its texts."""
    if isinstance(value, str):
        return redact(value)
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(_redacted(item, redact) for item in value)
    if type(value) is dict:
        return {key: _redacted(item, redact) for key, item in value.items()}
    return value


def _state(error: Exception, redact: Redact) -> tuple[dict[str, str], list[str]]:
    kept: dict[str, str] = {}
    lost: list[str] = []
    for name, value in vars(error).items():
        if name == "__notes__":
            continue
        try:
            kept[name] = encode(_redacted(value, redact))
        except NotSerializable:
            lost.append(name)
    return kept, lost


def _rebuild(record: dict[str, Any]) -> Exception | None:
    if "args" not in record:
        return None
    kind = _error_type(record["type"])
    if kind is None:
        return None
    try:
        args = decode(record["args"])
        # A Python __init__ may expect other arguments than it leaves in args; setting the
        # attributes it would set is then the faithful way. A C one has to run to fill its slots.
        if isinstance(kind.__init__, type(BaseException.__init__)):
            error = kind(*args)
        else:
            error = kind.__new__(kind, *args)
            error.args = tuple(args)
        for name, value in record.get("state", {}).items():
            setattr(error, name, decode(value))
    except Exception:
        return None
    return error


def _error_type(name: str) -> type[Exception] | None:
    module_name, _, qualname = name.partition(":")
    found: Any = builtins if module_name == "builtins" else _module(module_name)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if isinstance(found, type) and issubclass(found, Exception):
        return found
    return None


def _module(name: str) -> Any:
    if name in sys.modules:
        return sys.modules[name]
    package = name.partition(".")[0]
    if package == name or package not in sys.modules:
        return None
    try:
        return importlib.import_module(name)
    except Exception:
        return None
