"""Values as text and back.

What is stored is JSON. The types that JSON lacks and that carry no code (times, decimals, UUIDs,
bytes, tuples, sets, mappings with other keys than strings), and events, are written as ``{"$": kind, "v": ...}``,
so that an unannotated value comes back as what it was. Nothing is ever pickled, and decoding can
only build the types named in this file.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from ..errors import DamagedRecord, NotSerializable, PayloadTooLarge

if TYPE_CHECKING:
    from ..model import Event

__all__ = ["TAG", "TAGGED", "decode", "decode_arguments", "encode", "event_class", "is_json", "measured", "read_json"]

logger = logging.getLogger("celery_durable")

T = TypeVar("T")

TAG = "$"
_MAX_DEPTH = 200
_write = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make one for each value
_read_first = json.JSONDecoder().raw_decode


class _Unstorable(Exception):
    """Carries the path to the value that can't be stored up to where the step is known."""

    def __init__(self, path: str, value: object, why: str = "") -> None:
        super().__init__(path, value, why)
        self.path, self.value, self.why = path, value, why


def encode(value: Any, what: str = "the value", *, is_plain: bool = False) -> str:
    """The value as JSON text. ``what`` names it in the error, should it not be storable; ``is_plain`` says that
    :func:`is_json` was asked already."""
    if value is None:
        return "null"
    try:
        return _write(value if is_plain or is_json(value) else _pack(value, "", 0))
    except _Unstorable as error:
        raise NotSerializable(_explain(what, error)) from None
    except Exception as error:  # a proxy of nothing; a number of more digits than Python writes
        raise NotSerializable(
            f"{what} can't be stored: looking at it raised {type(error).__name__}: {error}. Hand over plain data."
        ) from error


def measured(text: str, what: str, limit: int) -> str:
    """An encoded value, unless it is larger than one may be; a warning where it comes near that."""
    if len(text) > limit:
        raise PayloadTooLarge(
            f"{what} takes {len(text):,} bytes, and durable_max_payload is {limit:,}. Store it elsewhere and hand over "
            "where it is, or raise the setting."
        )
    if len(text) > limit * 8 // 10:
        logger.warning("%s takes %d bytes of the %d that durable_max_payload allows", what, len(text), limit)
    return text


def decode(text: str) -> Any:
    """The value that :func:`encode` was given, in types of this file only. Raises ``DamagedRecord``."""
    return _read(text, _unpack if TAGGED in text else _as_it_is)


def decode_arguments(text: str) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call as they were recorded: those by position, and those by name."""
    args, kwargs = _read(text, _unpack_pair if TAGGED in text else _checked_pair)
    return args, kwargs


def read_json(text: str, kind: type[T]) -> T:
    """The plain JSON of a record that is no value, if it is of this kind. Raises ``DamagedRecord``."""

    def check(found: Any) -> T:
        if type(found) is not kind:
            raise TypeError(f"it is no {kind.__name__}")
        return found

    return _read(text, check)


def _read(text: str, unpack: Callable[[Any], T]) -> T:
    try:
        return unpack(_parse(text))
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError) as error:
        raise DamagedRecord(
            f"a stored value can't be decoded ({type(error).__name__}: {str(error)[:200]}): {text!r:.80}"
        ) from error


def _parse(text: str) -> Any:
    """As ``json.loads`` does; at once where the text is as :func:`encode` writes it, without spaces around."""
    try:
        value, end = _read_first(text)
    except json.JSONDecodeError:
        end = -1
    return value if end == len(text) else json.loads(text)


def _explain(what: str, error: _Unstorable) -> str:
    kind = type(error.value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    where = f" at {error.path}" if error.path else ""
    cure = error.why or _cure(error.value)
    return f"{what} can't be stored: {name}{where} has no durable form. {cure}"


def _cure(value: object) -> str:
    if hasattr(value, "__await__"):
        return "The function is async: await it inside a def function, or hand over its value."
    if hasattr(value, "model_dump") or hasattr(value, "__dataclass_fields__"):
        return (
            "Annotate the function with this type (or use step.options(returns=...)): then it is stored by its fields."
        )
    return "Hand over plain data, such as an id, or annotate the function with a type that pydantic can store."


_SCALARS = (str, bool, int, type(None))
TAGGED = f'"{TAG}"'
"""What a text has in it that holds more than JSON has."""


def is_json(value: Any, depth: int = _MAX_DEPTH) -> bool:
    """Whether a value is plain JSON data, so that its text is its form. Most are, and need not be taken apart.

    Asked for what every step is given and gives: its loops are no generators, as these take twice as long.
    """
    kind = type(value)
    if kind in _SCALARS:
        return True
    if kind is float:
        return math.isfinite(value)
    if kind is dict:
        if TAG in value:
            return False
        for key in value:
            if type(key) is not str:
                return False
        items = value.values()
    elif kind is list:
        items = value
    else:
        return False
    for item in items:  # noqa: SIM110
        if type(item) not in _SCALARS and not (depth > 0 and is_json(item, depth - 1)):
            return False
    return True


def _as_it_is(value: Any) -> Any:
    return value


def _pack(value: Any, path: str, depth: int) -> Any:
    kind = type(value)
    if kind in _SCALARS:
        return value
    if kind is float:
        return value if math.isfinite(value) else {TAG: "float", "v": repr(value)}
    if depth > _MAX_DEPTH:
        raise _Unstorable(path[:60] + "...", value, f"It is nested deeper than {_MAX_DEPTH} levels, or holds itself.")
    depth += 1
    if kind is list:
        return [_pack(item, f"{path}[{index}]", depth) for index, item in enumerate(value)]
    if kind is dict:
        return _pack_dict(value, path, depth)
    if kind is tuple or isinstance(value, tuple):
        return {TAG: "tuple", "v": [_pack(item, f"{path}[{index}]", depth) for index, item in enumerate(value)]}
    if kind in (set, frozenset):
        # Sorted, so that one set has one form whatever the order of its hashes in this process.
        items = sorted(json.dumps(_pack(item, f"{path}{{...}}", depth)) for item in value)
        return {TAG: kind.__name__, "v": [json.loads(item) for item in items]}
    if isinstance(value, Enum):
        return _pack(value.value, path, depth)
    if kind is event_class():
        return {TAG: "event", "v": _pack({name: getattr(value, name) for name in kind.model_fields}, path, depth)}
    for base, name, write in _WRITERS:
        if isinstance(value, base):
            return {TAG: name, "v": write(value)}
    for base, plain in _SUBCLASSES:
        if isinstance(value, base):
            return _pack(plain(value), path, depth)
    raise _Unstorable(path, value)


def _pack_dict(value: dict[Any, Any], path: str, depth: int) -> Any:
    if TAG not in value and all(type(key) is str for key in value):
        return {key: _pack(item, f"{path}[{key!r}]", depth) for key, item in value.items()}
    pairs = [
        [_pack(key, f"{path}.keys()", depth), _pack(item, f"{path}[{key!r}]", depth)] for key, item in value.items()
    ]
    return {TAG: "dict", "v": pairs}


def _unpack(value: Any) -> Any:
    kind = type(value)
    if kind is list:
        return [_unpack(item) for item in value]
    if kind is dict:
        if TAG in value:
            return _READERS[value[TAG]](value["v"])
        return {key: _unpack(item) for key, item in value.items()}
    return value


def _unpack_pair(value: Any) -> tuple[list[Any], dict[str, Any]]:
    return _checked_pair(_unpack(value))


def _checked_pair(value: Any) -> tuple[list[Any], dict[str, Any]]:
    args, kwargs = value
    if type(args) is not list or type(kwargs) is not dict or not all(type(name) is str for name in kwargs):
        raise TypeError("no arguments by position and by name")
    return args, kwargs


def event_class() -> Any:
    """``Event``, or ``()`` where it was never imported, and no value is one: who only declares tasks and starts runs
    need not wait for pydantic's models."""
    return getattr(sys.modules.get("celery_durable.model"), "Event", ())


def _read_event(parts: Any) -> Event:
    from ..model import Event

    return Event(**_unpack(parts))


# datetime before date: a datetime is a date.
_WRITERS: tuple[tuple[type, str, Callable[[Any], Any]], ...] = (
    (datetime, "datetime", datetime.isoformat),
    (date, "date", date.isoformat),
    (time, "time", time.isoformat),
    (timedelta, "timedelta", lambda value: [value.days, value.seconds, value.microseconds]),
    (Decimal, "decimal", str),
    (UUID, "uuid", str),
    (bytes, "bytes", lambda value: base64.b64encode(value).decode()),
)
# Subclasses of plain types (an ORM's string, a defaultdict) are stored as the plain type.
_SUBCLASSES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int),
    (float, float),
    (dict, dict),
    (list, list),
    (bytearray, bytes),
)
_READERS: dict[str, Callable[[Any], Any]] = {
    "float": float,
    "tuple": lambda items: tuple(_unpack(item) for item in items),
    "set": lambda items: {_unpack(item) for item in items},
    "frozenset": lambda items: frozenset(_unpack(item) for item in items),
    "dict": lambda pairs: {_unpack(key): _unpack(item) for key, item in pairs},
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda parts: timedelta(*parts),
    "decimal": Decimal,
    "uuid": UUID,
    "bytes": base64.b64decode,
    "event": _read_event,
}
