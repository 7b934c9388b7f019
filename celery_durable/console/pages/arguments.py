"""Arguments that are written as JSON, where a form has no fields for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..texts import parse_json

__all__ = ["json_arguments"]


def json_arguments(typed: Mapping[str, str], errors: dict[str, str]) -> tuple[list[Any], dict[str, Any]]:
    """The arguments by place and by name; what is wrong with them goes to ``errors``."""
    args = _read(typed, "args", list, "A list of the arguments is expected, such as [1, 2].", errors)
    kwargs = _read(typed, "kwargs", dict, 'An object of names and values is expected, such as {"a": 1}.', errors)
    return args, kwargs


def _read(typed: Mapping[str, str], name: str, kind: type, expected: str, errors: dict[str, str]) -> Any:
    text = typed.get(name, "").strip()
    try:
        value = parse_json(text) if text else kind()
    except ValueError as error:
        errors[name] = str(error)
        return kind()
    if not isinstance(value, kind):
        errors[name] = expected
        return kind()
    return value
