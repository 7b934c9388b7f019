"""What a JSON schema comes down to: references followed, ``null`` told apart, and what kind of field can hold it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Plain", "plain_schema"]

_FOLLOWED = 20
"""References that lead to references."""
_DEFINITIONS = "#/$defs/"
_OF_STRING = {"date": "date", "date-time": "datetime", "time": "time", "uuid": "uuid", "password": "secret"}


@dataclass(frozen=True)
class Plain:
    """A schema without references, and what it says."""

    schema: Mapping[str, Any]
    kind: Any
    nullable: bool
    values: tuple[Any, ...] = ()
    """Of a choice: what there is to choose from."""
    names: frozenset[str] = frozenset()
    """The definitions that led to it."""


def plain_schema(schema: Any, definitions: Mapping[str, Any]) -> Plain:
    """What a schema says, as far as a field can; what it can't is JSON."""
    schema = schema if isinstance(schema, Mapping) else {}
    nullable, names = False, set()
    for _ in range(_FOLLOWED):
        name = _reference(schema)
        if name is not None and isinstance(definitions.get(name), Mapping):
            names.add(name)
            # What stands beside a reference says more of this place: its default, its title.
            schema = {**definitions[name], **_without(schema, "$ref")}
            continue
        several = _alternatives(schema)
        if several is None:
            break
        keyword, others, has_null = several
        if len(others) != 1 or not isinstance(others[0], Mapping):
            nullable |= has_null
            schema = {**_without(schema, keyword), keyword: others}
            break
        nullable |= has_null
        schema = {**others[0], **_without(schema, keyword)}
    kind, values, also_null = _kind(schema)
    return Plain(schema, kind, nullable or also_null, values, frozenset(names))


def _reference(schema: Mapping[str, Any]) -> str | None:
    reference = schema.get("$ref")
    if not isinstance(reference, str) or not reference.startswith(_DEFINITIONS):
        return None
    return reference[len(_DEFINITIONS) :].replace("~1", "/").replace("~0", "~")


def _alternatives(schema: Mapping[str, Any]) -> tuple[str, list[Any], bool] | None:
    """The keyword under which there are several schemas, those that are not ``null``, and whether one is."""
    for keyword in ("anyOf", "oneOf", "allOf"):
        given = schema.get(keyword)
        if isinstance(given, list) and given:
            others = [each for each in given if keyword == "allOf" or each != {"type": "null"}]
            return keyword, others, len(others) < len(given)
    return None


def _without(schema: Mapping[str, Any], keyword: str) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != keyword}


def _kind(schema: Mapping[str, Any]) -> tuple[str, tuple[Any, ...], bool]:
    """What kind of field it is, what there is to choose from, and whether ``null`` is among that."""
    if "$ref" in schema or "allOf" in schema or "oneOf" in schema:
        return "json", (), False
    if "anyOf" in schema:
        return "decimal" if _is_decimal(schema["anyOf"]) else "json", (), False
    if "const" in schema:
        return "choice", (schema["const"],), False
    given = schema.get("enum")
    if isinstance(given, list):
        values = tuple(value for value in given if value is not None)
        return ("choice" if values else "json"), values, len(values) < len(given)
    types = schema.get("type")
    listed = [types] if isinstance(types, str) else list(types) if isinstance(types, list) else []
    named = [each for each in listed if each != "null"]
    nullable = len(named) < len(listed)
    if len(named) != 1:
        return "json", (), nullable
    return _kind_of_type(schema, named[0]), (), nullable


def _kind_of_type(schema: Mapping[str, Any], name: str) -> str:
    if name == "string":
        return _OF_STRING.get(str(schema.get("format")), "text")
    if name in ("integer", "number", "boolean"):
        return name
    if name == "object" and isinstance(schema.get("properties"), Mapping):
        return "object"
    return "json"


def _is_decimal(given: Any) -> bool:
    """Whether it is a number or a text: what pydantic makes of ``Decimal``."""
    types = [each.get("type") for each in given if isinstance(each, Mapping)] if isinstance(given, list) else []
    return sorted(map(str, types)) == ["number", "string"] and len(types) == len(given)
