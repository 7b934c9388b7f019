"""Errors as records and back.

An error is rebuilt as its own type where that is safe and faithful, and as ``StepFailed`` otherwise;
what the body catches is therefore the same on the first pass and on every replay. A record can't make
a process run anything but the construction of an ``Exception`` that its code has loaded: nothing is
imported, and no ``__getattr__``, property or descriptor is asked. A body that names a type has imported it.
"""

from __future__ import annotations

import builtins
import json
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from ..errors import DamagedRecord, NotSerializable, StepFailed, add_note
from .codec import decode, encode, read_json

__all__ = ["bounded_error", "legible", "read_error", "summary", "with_notes", "write_error"]

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
    record = _parse(text)
    record["notes"] = [*record["notes"], *notes]
    return _text(record)


def read_error(text: str, otherwise: type[Exception] = StepFailed) -> Exception:
    """The error of a record: its own type, or another where that can't be rebuilt. Raises ``DamagedRecord``."""
    record = _parse(text)
    error = _rebuild(record)
    if error is None:
        error = otherwise(f"{_type_name(record)}: {record['message']}")
    for note in record["notes"]:
        add_note(error, note)
    if record["lost"]:
        add_note(error, f"not kept with the record: the attributes {', '.join(record['lost'])}")
    return error


def summary(text: str) -> dict[str, Any]:
    """The parts of a record that people read. Raises ``DamagedRecord``."""
    record = _parse(text)
    found = record["traceback"]
    return {
        "type": legible(_type_name(record)),
        "message": legible(record["message"]),
        "traceback": None if found is None else legible(found),
        "notes": tuple(map(legible, record["notes"])),
    }


def legible(text: str) -> str:
    """A text for people: half of a character, which Python's texts may have and no other's, is written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _parse(text: str) -> dict[str, Any]:
    """A record with all its parts."""
    record: dict[str, Any] = {"traceback": None, "notes": [], "lost": [], "state": {}} | read_json(text, dict)
    texts = [record.get("type"), record.get("message"), record.get("args", "")]
    if record["traceback"] is not None:
        texts.append(record["traceback"])
    if type(record["notes"]) is type(record["lost"]) is list and type(record["state"]) is dict:
        texts += [*record["notes"], *record["lost"], *record["state"].values()]
        if all(type(each) is str for each in texts):
            return record
    raise DamagedRecord(f"the record of an error lacks a part, or has one of another kind: {text!r:.80}")


def _type_name(record: dict[str, Any]) -> str:
    return str(record["type"]).replace("builtins:", "").replace(":", ".")


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
        vars(error).update((name, decode(value)) for name, value in record.get("state", {}).items())
    except Exception:
        return None
    return error


def _error_type(name: str) -> type[Exception] | None:
    module_name, _, qualname = name.partition(":")
    found: Any = builtins if module_name == "builtins" else sys.modules.get(module_name)
    for part in qualname.split("."):
        found = _held_by(found).get(part)
    if isinstance(found, type) and issubclass(found, Exception):
        return found
    return None


def _held_by(owner: Any) -> Mapping[str, Any]:
    """What a module or a class holds itself. A lazy module, or a metaclass, would run code to answer ``getattr``."""
    for kind in (type, ModuleType):
        if issubclass(type(owner), kind):
            held: Mapping[str, Any] = vars(kind)["__dict__"].__get__(owner)
            return held
    return {}
