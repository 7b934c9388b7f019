"""The JSON schema of a function's arguments."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from celery_durable.core.forms import arguments_schema


class Address(BaseModel):
    street: str = Field(title="Street and number")


@dataclass
class Line:
    sku: str
    address: Address


def test_the_arguments_are_described_by_their_annotations() -> None:
    def order(
        user: str,
        amount: Annotated[int, Field(gt=0)],
        plan: Literal["free", "pro"] = "free",
        note: Any = None,
        *,
        x=(1,),
    ) -> None: ...

    assert arguments_schema(order) == {
        "type": "object",
        "properties": {
            "user": {"type": "string"},
            "amount": {"type": "integer", "exclusiveMinimum": 0},
            "plan": {"type": "string", "enum": ["free", "pro"], "default": "free"},
            "note": {"default": None},
            "x": {"default": [1]},
        },
        "required": ["user", "amount"],
        "additionalProperties": False,
    }


def test_models_are_defined_once_and_keep_their_titles() -> None:
    def ship(to: Address, lines: list[Line]) -> None: ...

    schema = arguments_schema(ship)
    assert schema["properties"]["to"] == {"$ref": "#/$defs/Address"}
    assert schema["properties"]["lines"] == {"type": "array", "items": {"$ref": "#/$defs/Line"}}
    assert set(schema["$defs"]) == {"Address", "Line"}
    assert schema["$defs"]["Address"]["properties"]["street"]["title"] == "Street and number"


def test_two_models_of_one_name_are_told_apart() -> None:
    def other() -> Any:
        class Address(BaseModel):
            city: int

        return Address

    def move(old: Any, new: Any) -> None: ...

    move.__annotations__ = {"old": Address, "new": other()}
    schema = arguments_schema(move)
    old, new = (schema["$defs"][schema["properties"][name]["$ref"].rpartition("/")[2]] for name in ("old", "new"))
    assert (list(old["properties"]), list(new["properties"])) == (["street"], ["city"])


class Hostile:
    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        raise RuntimeError("not today")


def test_what_can_t_be_described_is_anything_and_leaves_the_others() -> None:
    def odd(
        lock: threading.Lock, call: Callable[..., int], hostile: Hostile, number: int, default=threading
    ) -> None: ...

    assert arguments_schema(odd)["properties"] == {
        "lock": {}, "call": {}, "hostile": {}, "number": {"type": "integer"}, "default": {},
    }  # fmt: skip


def test_what_can_t_be_resolved_is_anything() -> None:
    def lost(missing: Nowhere, number: int) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert set(arguments_schema(lost)["properties"]) == {"missing", "number"}
    assert arguments_schema(lost)["properties"]["missing"] == {}


def test_keywords_that_are_over_have_a_schema_and_positions_that_are_over_none() -> None:
    def many(first: int, *rest: int, **others: str) -> None: ...

    assert arguments_schema(many) == {
        "type": "object",
        "properties": {"first": {"type": "integer"}},
        "required": ["first"],
        "additionalProperties": {"type": "string"},
    }


def test_a_bound_method_is_given_no_self() -> None:
    class Task:
        def run(self, number: int) -> None: ...

    assert list(arguments_schema(Task().run)["properties"]) == ["number"]


def test_a_callable_that_does_not_tell_has_no_arguments_known() -> None:
    assert arguments_schema(dict.fromkeys)["type"] == "object"
    assert arguments_schema(type("Hidden", (), {"__signature__": 5, "__call__": print})())["properties"] == {}
