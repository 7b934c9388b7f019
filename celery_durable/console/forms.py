"""Forms from JSON schemas: what a task is started with, and what a person answers.

A schema becomes fields; what is sent becomes a value, or errors that belong to fields. A field that is left empty is
left out of the value, or is ``null`` where that is allowed and something has to be there: what is shown as a default
is so never sent as if somebody had chosen it. What no field can hold is written as JSON.

Nothing here knows of pages: a text goes in under a field's name, and a value comes out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import UnknownType, ValidationError, best_match
from pydantic_core import to_jsonable_python
from referencing import Registry
from referencing.exceptions import Unresolvable

from .schemas import Plain, plain_schema
from .texts import parse, text_of

__all__ = ["ABSENT", "Field", "Filled", "Form", "jsonable"]

Kind = Literal[
    "text", "secret", "integer", "number", "decimal", "boolean", "choice", "date", "datetime", "time", "uuid", "json",
    "object",
]  # fmt: skip

GIVEN = "given"
"""What is sent for an object that may be left out, and is not."""
_DEEPEST = 3
"""Objects within objects that have fields of their own."""
_MORE = "*"
"""The name of the field for arguments that have no field, in a form that takes any."""


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Any = _Absent()
"""What a field holds that is left out."""


@dataclass(frozen=True)
class Field:
    """What a person fills in."""

    path: tuple[str, ...]
    kind: Kind
    label: str
    help: str = ""
    required: bool = True
    nullable: bool = False
    default: str | None = None
    """What it is where it is left out, in a line."""
    options: tuple[tuple[str, str], ...] = ()
    """Of a choice: what is sent, and what is shown."""
    attributes: tuple[tuple[str, str], ...] = ()
    """What a browser can check by itself."""
    fields: tuple[Field, ...] = ()

    @property
    def name(self) -> str:
        """The name that its text is sent under."""
        return "/".join(("f", *(part.replace("~", "~0").replace("/", "~1") for part in self.path)))

    @property
    def id(self) -> str:
        """The id of its element."""
        return re.sub(r"[^\w-]", lambda found: f".{ord(found[0]):x}.", self.name)

    @property
    def may_be_left_out(self) -> bool:
        """Whether it may stay empty."""
        return not self.required or self.nullable


@dataclass(frozen=True)
class Filled:
    """A form that was sent: its value, or what is wrong, by the names of fields."""

    value: Any
    errors: Mapping[str, str]


class Form:
    """The fields of a JSON schema. One that is no object has a single field."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.schema = schema
        self._definitions = schema.get("$defs", {})
        root = self._field(schema, (), required=True)
        self._of_object = root.kind == "object"
        self.fields: tuple[Field, ...] = root.fields if self._of_object else (root,)
        self._takes_more = self._of_object and bool(schema.get("additionalProperties"))
        if self._takes_more:
            told = "As an object of names and values."
            self.fields += (Field((_MORE,), "json", "More arguments", told, required=False),)

    # ------------------------------------------------------------------ fields

    def _field(
        self, schema: Any, path: tuple[str, ...], *, required: bool, within: frozenset[str] = frozenset()
    ) -> Field:
        plain = plain_schema(schema, self._definitions)
        of = plain.schema
        kind: Kind = plain.kind
        if kind == "object" and (
            len(path) > _DEEPEST or within & plain.names or (path and of.get("additionalProperties")) or plain.nullable
        ):
            kind = "json"
        if kind not in ("boolean", "choice", "json", "object") and plain.nullable and of.get("default") is not None:
            kind = "json"  # an empty field would not tell the default from null
        return Field(
            path,
            kind,
            label=_label(schema, of, path),
            help=str(of.get("description") or ""),
            required=required,
            nullable=plain.nullable,
            default=_default(of["default"], kind) if "default" in of else None,
            options=_options(plain, kind, required),
            attributes=tuple(_attributes(of, kind)),
            fields=self._inner(of, path, within | plain.names) if kind == "object" else (),
        )

    def _inner(self, schema: Mapping[str, Any], path: tuple[str, ...], within: frozenset[str]) -> tuple[Field, ...]:
        required = schema.get("required", ())
        return tuple(
            self._field(inner, (*path, name), required=name in required, within=within)
            for name, inner in schema["properties"].items()
        )

    def every(self) -> Iterator[Field]:
        """All fields, those of objects too."""
        yield from _every(self.fields)

    # ------------------------------------------------------------------- texts

    def texts(self, value: Any) -> dict[str, str]:
        """What the fields hold for a value."""
        found: dict[str, str] = {}
        self._fill(self.fields, value, found)
        if self._takes_more and isinstance(value, Mapping):
            known = {field.path[0] for field in self.fields}
            more = {name: item for name, item in value.items() if name not in known}
            found[self.fields[-1].name] = text_of("json", more) if more else ""
        return found

    def _fill(self, fields: tuple[Field, ...], value: Any, found: dict[str, str]) -> None:
        for field in fields:
            item = value if not field.path else _at(value, field.path[-1])
            if field.kind == "object":
                if item is not ABSENT:
                    found[field.name] = GIVEN
                self._fill(field.fields, item, found)
            elif item is not ABSENT:
                found[field.name] = text_of(field.kind, item)

    # -------------------------------------------------------------------- read

    def read(self, sent: Mapping[str, str], original: Any = ABSENT) -> Filled:
        """What was filled in. A field that still holds what it held for ``original`` keeps that value exactly."""
        errors: dict[str, str] = {}
        before = {} if original is ABSENT else self.texts(original)
        reading = _Reading(sent, before, errors)
        if self._of_object:
            value: Any = reading.object(self.fields, original)
            if self._takes_more:
                more = value.pop(_MORE, {})
                if not isinstance(more, Mapping):
                    errors[self.fields[-1].name] = 'An object is expected, such as {"name": 1}.'
                else:
                    value = {**more, **value}
        else:
            value = reading.one(self.fields[0], original)
        if not errors:
            for path, message in _problems(self.schema, value):
                errors.setdefault(self._name_at(path), message)
        return Filled(value, errors)

    def _name_at(self, path: tuple[Any, ...]) -> str:
        """The name of the field that holds what is at a path."""
        names = {field.path: field.name for field in self.every()}
        for length in range(len(path), -1, -1):
            if path[:length] in names:
                return names[path[:length]]
        return self.fields[-1].name if self._takes_more and path else ""


@dataclass
class _Reading:
    """What is being read of what was sent."""

    sent: Mapping[str, str]
    before: Mapping[str, str]
    errors: dict[str, str]

    def object(self, fields: tuple[Field, ...], original: Any) -> dict[str, Any]:
        found = {field.path[-1]: self.one(field, _at(original, field.path[-1])) for field in fields}
        return {name: value for name, value in found.items() if value is not ABSENT}

    def one(self, field: Field, original: Any) -> Any:
        text = self.sent.get(field.name, "").replace("\r\n", "\n")
        if field.kind == "object":
            if not field.required and text != GIVEN:
                return ABSENT
            return self.object(field.fields, original)
        if original is not ABSENT and text == self.before.get(field.name, "").replace("\r\n", "\n"):
            return original
        if text.strip() == "":
            return self._nothing(field)
        try:
            return parse(field.kind, text)
        except ValueError as error:
            self.errors[field.name] = str(error)
            return ABSENT

    def _nothing(self, field: Field) -> Any:
        if not field.required:
            return ABSENT
        if not field.nullable:
            self.errors[field.name] = "This is needed."
        return None


def jsonable(value: Any) -> tuple[Any, bool]:
    """A value as JSON has it, and whether JSON can say it exactly."""
    plain = to_jsonable_python(value, fallback=str, bytes_mode="base64", inf_nan_mode="strings")
    return plain, plain == value or _listed(value) == plain


def _listed(value: Any) -> Any:
    """With tuples as lists, which mean the same to a task."""
    if isinstance(value, (list, tuple)):
        return [_listed(item) for item in value]
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    return value


def _at(value: Any, name: str) -> Any:
    return value.get(name, ABSENT) if isinstance(value, Mapping) else ABSENT


def _every(fields: tuple[Field, ...]) -> Iterator[Field]:
    for field in fields:
        yield field
        yield from _every(field.fields)


def _label(given: Any, plain: Mapping[str, Any], path: tuple[str, ...]) -> str:
    """What the place itself is called: the title of a model that it refers to is that model's."""
    title = given.get("title") if isinstance(given, Mapping) else None
    return str(title or path[-1]) if path else str(plain.get("title") or "The value")


def _default(value: Any, kind: str) -> str:
    if value is None:
        return "nothing"
    if kind == "boolean" and isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and kind != "json":
        return value or "an empty text"
    return json.dumps(value, ensure_ascii=False)


def _options(plain: Plain, kind: str, required: bool) -> tuple[tuple[str, str], ...]:
    if kind == "boolean":
        found = [("true", "yes"), ("false", "no")]
    elif kind == "choice":
        found = [(json.dumps(value), value if isinstance(value, str) else json.dumps(value)) for value in plain.values]
    else:
        return ()
    if plain.nullable and not required and plain.schema.get("default") is not None:
        found.append(("null", "nothing (null)"))
    return tuple(found)


def _attributes(schema: Mapping[str, Any], kind: str) -> Iterator[tuple[str, str]]:
    if kind in ("text", "secret"):
        for name, keyword in (("minlength", "minLength"), ("maxlength", "maxLength")):
            if isinstance(schema.get(keyword), int):
                yield name, str(schema[keyword])
    if kind not in ("integer", "number"):
        return
    whole = kind == "integer"
    for name, keyword, strictly, step in (
        ("min", "minimum", "exclusiveMinimum", 1),
        ("max", "maximum", "exclusiveMaximum", -1),
    ):
        if isinstance(schema.get(keyword), (int, float)):
            yield name, str(schema[keyword])
        elif whole and isinstance(schema.get(strictly), int):
            yield name, str(schema[strictly] + step)
    yield "step", "1" if whole else "any"


# ------------------------------------------------------------------------ check


def _problems(schema: Mapping[str, Any], value: Any) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Where a value does not fit its schema, and how. A schema that can't be understood is left to who is given the
    value; nothing is fetched from elsewhere."""
    checker = Draft202012Validator(schema, registry=Registry())
    try:
        for found in checker.iter_errors(value):
            error = best_match([found]) or found
            yield tuple(error.absolute_path), _said(error)
    except (UnknownType, Unresolvable, re.error, RecursionError, TypeError, KeyError):
        return


_WORDS = {
    "minimum": "{0} is the least.",
    "maximum": "{0} is the most.",
    "exclusiveMinimum": "It has to be more than {0}.",
    "exclusiveMaximum": "It has to be less than {0}.",
    "multipleOf": "It has to be a multiple of {0}.",
    "minLength": "It has to have {0} characters at least.",
    "maxLength": "It may have {0} characters at most.",
    "minItems": "It has to have {0} items at least.",
    "maxItems": "It may have {0} items at most.",
    "pattern": "It has to match the pattern {0}",
    "uniqueItems": "No two items may be equal.",
}


def _said(error: ValidationError) -> str:
    words = _WORDS.get(str(error.validator))
    if words is not None:
        return words.format(error.validator_value)
    return error.message if len(error.message) <= 300 else f"{error.message[:299]}…"
