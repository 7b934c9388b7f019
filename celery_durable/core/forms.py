"""What a function has to be given, as a JSON schema: what a form is made from."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from .boundary import hints_of

__all__ = ["arguments_schema"]

_REF = "#/$defs/{model}"


def arguments_schema(fn: Callable[..., Any]) -> dict[str, Any]:
    """The JSON schema of a function's arguments, as an object of them by name.

    What has no annotation, or one that has no JSON schema, is ``{}``: anything. ``*args`` are not in it, as they have
    no names.
    """
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # a callable that does not tell
        return {"type": "object", "properties": {}}
    annotations = hints_of(fn)
    schemas, shared = _schemas({each.name: annotations[each.name] for each in parameters if each.name in annotations})
    named = [each for each in parameters if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    found: dict[str, Any] = {
        "type": "object",
        "properties": {each.name: schemas.get(each.name, {}) | _default_of(each) for each in named},
        "required": [each.name for each in named if each.default is each.empty],
        "additionalProperties": False,
    }
    for each in parameters:
        if each.kind is each.VAR_KEYWORD:
            found["additionalProperties"] = schemas.get(each.name, {})
    return found | ({"$defs": shared} if shared else {})


def _schemas(annotations: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The schema of each annotation that has one, and the definitions that they share."""
    adapters = {}
    for name, annotation in annotations.items():
        try:
            adapters[name] = TypeAdapter(annotation)
            adapters[name].json_schema()
        except Exception:  # pydantic can't describe it, and says so in many ways; a type's own hooks fail as they like
            adapters.pop(name, None)
    # Together, so that two models of one name are told apart.
    made, told = TypeAdapter.json_schemas(
        [(name, "validation", adapter) for name, adapter in adapters.items()], ref_template=_REF
    )
    return {name: schema for (name, _), schema in made.items()}, told.get("$defs", {})


def _default_of(parameter: inspect.Parameter) -> dict[str, Any]:
    if parameter.default is parameter.empty:
        return {}
    try:
        return {"default": to_jsonable_python(parameter.default)}
    except Exception:  # nothing that a form could begin with
        return {}
