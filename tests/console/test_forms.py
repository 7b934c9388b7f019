"""Forms: a schema as pydantic makes it, texts as browsers send them, and the value that comes of both."""

from __future__ import annotations

import json
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, SecretStr, TypeAdapter

from celery_durable.console.forms import Form, jsonable


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    street: str
    zip_code: int = Field(ge=1, le=99999)
    country: str = "DE"


class Node(BaseModel):
    name: str
    inner: Node | None = None


class Everything(BaseModel):
    text: str
    some: Annotated[str, Field(min_length=2, max_length=5)] = "abc"
    whole: int
    real: float = 1.5
    price: Decimal
    yes: bool
    maybe: bool | None = None
    color: Color
    size: Literal["s", "m", 3] = "m"
    day: date
    at: datetime
    clock: time
    id: UUID
    address: Address
    other: Address | None = None
    tags: list[str]
    table: dict[str, int] = {}
    anything: Any = None
    tree: Node | None = None
    either: int | str = 1
    secret: SecretStr = SecretStr("")
    nothing_or_text: str | None
    text_unless_null: str | None = "abc"
    length: timedelta = timedelta(1)


EVERYTHING = Everything.model_json_schema()
SENT = {
    "f/text": "hello", "f/whole": "-3", "f/price": "10.50", "f/yes": "false", "f/color": '"blue"',
    "f/day": "2026-11-21",
    "f/at": "2026-11-21T09:30", "f/clock": "09:30", "f/id": "0b9d8f1e-3c4b-4a57-9f6e-2a1d5c7b8e90",
    "f/address/street": "Main St 1", "f/address/zip_code": "12345", "f/tags": '["a", "b"]',
}  # fmt: skip


def of(annotation: Any, **more: Any) -> Form:
    """A form with one argument of that type."""
    schema = TypeAdapter(annotation).json_schema()
    definitions = schema.pop("$defs", {})
    given = {"type": "object", "properties": {"it": schema | more}, "required": [] if more else ["it"]}
    return Form(given | {"$defs": definitions, "additionalProperties": False})


def read(form: Form, text: str) -> Any:
    """What a text in its one field comes to: the value, or what is wrong with it."""
    filled = form.read({form.fields[0].name: text})
    return filled.errors[form.fields[0].name] if filled.errors else filled.value.get("it", "absent")


def test_every_type_has_its_kind_of_field() -> None:
    kinds = {field.name.removeprefix("f/"): field.kind for field in Form(EVERYTHING).every()}
    assert kinds == {
        "text": "text", "some": "text", "whole": "integer", "real": "number", "price": "decimal", "yes": "boolean",
        "maybe": "boolean", "color": "choice", "size": "choice", "day": "date", "at": "datetime", "clock": "time",
        "id": "uuid", "address": "object", "address/street": "text", "address/zip_code": "integer",
        "address/country": "text", "other": "json", "tags": "json", "table": "json", "anything": "json", "tree": "json",
        "either": "json", "secret": "secret", "nothing_or_text": "text", "text_unless_null": "json", "length": "text",
    }  # fmt: skip


def test_what_is_sent_is_what_pydantic_takes() -> None:
    filled = Form(EVERYTHING).read(SENT)
    assert filled.errors == {}
    made = Everything.model_validate(filled.value)
    assert (made.whole, made.price, made.yes, made.color, made.size) == (-3, Decimal("10.50"), False, Color.BLUE, "m")
    assert (made.day, made.clock) == (date(2026, 11, 21), time(9, 30))
    assert made.at == datetime(2026, 11, 21, 9, 30, tzinfo=timezone.utc)
    assert made.id == UUID(SENT["f/id"])
    assert made.address == Address(street="Main St 1", zip_code=12345)
    assert made.tags == ["a", "b"]
    assert made.nothing_or_text is None


def test_what_is_left_empty_is_left_out_and_so_its_default_holds() -> None:
    value = Form(EVERYTHING).read(SENT).value
    assert set(value) == {
        "text", "whole", "price", "yes", "color", "day", "at", "clock", "id", "address", "tags", "nothing_or_text",
    }  # fmt: skip
    assert value["nothing_or_text"] is None


def test_what_is_needed_is_asked_for_at_its_field() -> None:
    filled = Form(EVERYTHING).read({"f/some": "abcd"})
    assert set(filled.errors) == set(SENT)
    assert set(filled.errors.values()) == {"This is needed."}


def test_constraints_are_checked_at_the_field() -> None:
    errors = Form(EVERYTHING).read(SENT | {"f/some": "abcdefg", "f/address/zip_code": "0"}).errors
    assert errors == {
        "f/some": "It may have 5 characters at most.",
        "f/address/zip_code": "1 is the least.",
    }


def test_what_does_not_fit_inside_json_is_told_at_that_field() -> None:
    errors = Form(EVERYTHING).read(SENT | {"f/tags": '["a", 5]', "f/table": '{"a": "b"}'}).errors
    assert errors == {"f/tags": "5 is not of type 'string'", "f/table": "'b' is not of type 'integer'"}


def test_a_wrong_object_that_may_be_null_says_what_is_wrong_inside() -> None:
    assert (
        "'street' is a required property"
        in Form(EVERYTHING).read(SENT | {"f/other": '{"zip_code": 5}'}).errors["f/other"]
    )
    assert Form(EVERYTHING).read(SENT | {"f/other": "null"}).errors == {}


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, " 42 ", 42),
        (int, "12" * 100, int("12" * 100)),
        (int, "1.5", "A whole number is expected."),
        (int, "0x10", "A whole number is expected."),
        (int, "1" * 5000, "A whole number is expected."),
        (int, "١٢", "A whole number is expected."),
        (float, "99.9", 99.9),
        (float, "-1e3", -1000.0),
        (float, "007", 7),
        (float, "nan", "A number is expected, such as 99.9."),
        (float, "1e999", "A number is expected, such as 99.9."),
        (float, "1,5", "A number is expected, such as 99.9."),
        (Decimal, "10.10", "10.10"),
        (Decimal, "10.1", 10.1),
        (Decimal, "12", 12),
        (Decimal, "0.30000000000000000001", "0.30000000000000000001"),
        (float | str, "abc", "abc"),
        (bool, "true", True),
        (bool, "false", False),
        (bool, "5", "5 is not of type 'boolean'"),
        (bool, "<b>", "Choose one of these."),
        (Color, '"red"', "red"),
        (Color, '"green"', "'green' is not one of ['red', 'blue']"),
        (Literal["only"], '"only"', "only"),
        (str, "  spaces stay ", "  spaces stay "),
        (str, "two\r\nlines", "two\nlines"),
        (str | None, "", None),
        (int | None, "", None),
        (int | None, "5", 5),
        (date, "2026-02-30", "A date is expected, such as 2026-11-21."),
        (time, "25:00", "A time of day is expected, such as 09:30 or 09:30:00."),
        (time, "09:30:15", "09:30:15"),
        (datetime, "2026-11-21T09:30", "2026-11-21T09:30:00Z"),
        (datetime, "2026-11-21T09:30+01:00", "2026-11-21T09:30:00+01:00"),
        (datetime, "2026-11-21T09:30:10.123456+01:00", "2026-11-21T09:30:10.123456+01:00"),
        (datetime, "2026-11-21T09:30:10Z", "2026-11-21T09:30:10Z"),
        (UUID, "0B9D8F1E3C4B4A579F6E2A1D5C7B8E90", "0b9d8f1e-3c4b-4a57-9f6e-2a1d5c7b8e90"),
        (UUID, "12", "A UUID is expected, such as 0b9d8f1e-3c4b-4a57-9f6e-2a1d5c7b8e90."),
        (list[int], "[1, 2]", [1, 2]),
        (Any, '{"a": [null]}', {"a": [None]}),
        (Any, "null", None),
        (Any, "NaN", "NaN is no number of JSON."),
        (Any, "order-1", 'This is no JSON: Expecting value at character 1. A text stands in quotes: "order-1"'),
        (Any, '{"a": 1,\n}', "This is no JSON: Expecting property name enclosed in double quotes at line 2, column 1."),
        (Any, "[" * 100_000, "This is nested too deeply."),
    ],
)  # fmt: skip
def test_a_text_becomes_a_value_or_says_what_is_expected(annotation: Any, text: str, value: Any) -> None:
    found = read(of(annotation), text)
    if isinstance(value, str) and value.startswith(("This is no JSON", "A time")):
        assert str(found).startswith(value[:20])  # the words are Python's, and differ by version
    else:
        assert found == value
        assert type(found) is type(value)


def test_an_optional_field_tells_its_default_and_sends_nothing() -> None:
    form = of(int, default=7)
    assert form.fields[0].default == "7"
    assert read(form, "") == "absent"
    assert read(form, "7") == 7


def test_a_choice_that_may_be_null_or_left_out_has_both() -> None:
    form = of(Literal["a", "b"] | None, default="a")
    assert form.fields[0].options == (('"a"', "a"), ('"b"', "b"), ("null", "nothing (null)"))
    assert read(form, "null") is None
    assert read(form, "") == "absent"


def test_an_object_that_may_be_left_out_is_only_sent_where_somebody_wants_it() -> None:
    form = Form({"type": "object", "properties": {"to": Address.model_json_schema()}})
    assert form.read({"f/to/street": "x"}).value == {}
    sent = {"f/to": "given", "f/to/street": "x", "f/to/zip_code": "5"}
    assert form.read(sent).value == {"to": {"street": "x", "zip_code": 5}}
    assert form.read({"f/to": "given"}).errors == {"f/to/street": "This is needed.", "f/to/zip_code": "This is needed."}


def test_arguments_that_have_no_name_in_the_schema_are_an_object_of_their_own() -> None:
    form = Form(
        {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "integer"}}
    )
    assert [field.name for field in form.fields] == ["f/a", "f/*"]
    assert form.read({"f/a": "1", "f/*": '{"b": 2}'}).value == {"a": 1, "b": 2}
    assert form.read({"f/*": "[1]"}).errors == {"f/*": 'An object is expected, such as {"name": 1}.'}
    assert form.read({"f/*": '{"b": "x"}'}).errors == {"f/*": "'x' is not of type 'integer'"}
    assert json.loads(form.texts({"a": 1, "b": 2})["f/*"]) == {"b": 2}


def test_a_model_that_is_no_object_is_one_field() -> None:
    class Amounts(RootModel[list[int]]):
        pass

    form = Form(Amounts.model_json_schema())
    assert [(field.name, field.kind, field.label) for field in form.fields] == [("f", "json", "Amounts")]
    assert form.read({"f": "[1]"}).value == [1]
    assert form.read({"f": '["x"]'}).errors == {"f": "'x' is not of type 'integer'"}


def test_a_closed_model_refuses_what_it_does_not_know() -> None:
    class Closed(BaseModel):
        model_config = ConfigDict(extra="forbid")
        a: int

    assert Form(Closed.model_json_schema()).read({"f/a": "1", "f/b": "2"}).value == {"a": 1}


def test_a_model_within_itself_ends_as_json() -> None:
    class Tree(BaseModel):
        name: str
        left: Tree = None  # type: ignore[assignment]

    kinds = {field.name: field.kind for field in Form(Tree.model_json_schema()).every()}
    assert kinds == {"f/name": "text", "f/left": "json"}


@pytest.mark.parametrize(
    "schema",
    [
        True, {}, {"type": "teapot"}, {"type": ["string", "integer"]}, {"$ref": "#/$defs/gone"},
        {"$ref": "https://example.com/schema.json"}, {"oneOf": [{"type": "string"}, {"type": "integer"}]},
        {"not": {"type": "string"}}, {"enum": [None]}, {"type": "object"}, {"type": "array"}, {"anyOf": [True]},
        {"type": "null"}, {"if": {}, "then": {}}, {"properties": {"a": {}}}, {"allOf": [{"type": "string"}, {}]},
    ],
)  # fmt: skip
def test_what_no_field_can_hold_is_json(schema: Any) -> None:
    form = Form({"type": "object", "properties": {"it": schema}, "required": ["it"]})
    assert form.fields[0].kind == "json"
    form.read({"f/it": '{"a": 1}'})  # whatever it is, nothing breaks, and nothing is fetched


def test_a_reference_that_leads_in_a_circle_ends() -> None:
    circle = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    form = Form(circle)
    assert form.fields[0].kind == "json"
    assert form.read({"f": "1"}).value == 1


def test_a_pattern_that_python_does_not_know_is_left_to_who_is_given_the_value() -> None:
    assert read(of(str, pattern=r"\p{L}+("), "abc") == "abc"


def test_names_survive_whatever_they_hold() -> None:
    names = ["a/b", "a~b", "ä ö", '"><script>', "*"]
    form = Form({"type": "object", "properties": {name: {"type": "string"} for name in names}})
    assert len({field.name for field in form.fields}) == len({field.id for field in form.fields}) == len(names)
    assert form.read({field.name: field.label for field in form.fields}).value == dict(zip(names, names, strict=True))
    assert all(" " not in field.id and '"' not in field.id for field in form.fields)


def test_a_form_filled_with_a_value_gives_it_back() -> None:
    value = Form(EVERYTHING).read(SENT | {"f/other": '{"street": "x", "zip_code": 1}', "f/text": "a\nb"}).value
    form = Form(EVERYTHING)
    assert form.read(form.texts(value)).value == value


def test_a_field_that_was_not_touched_keeps_its_value_to_the_letter() -> None:
    form = of(datetime)
    original = {"it": "2026-11-21T09:30:00.123456+00:00"}
    assert form.texts(original) == {"f/it": "2026-11-21T09:30:00.123456"}
    assert form.read(form.texts(original), original).value == original
    form = of(float)
    assert form.texts({"it": "***"}) == {"f/it": "***"}  # hidden from whoever looks
    assert form.read({"f/it": "***"}, {"it": "***"}).value == {"it": "***"}
    assert form.read({"f/it": "5"}, {"it": "***"}).value == {"it": 5}


def test_json_says_what_it_can_and_tells_what_it_can_not() -> None:
    assert jsonable({"a": [1, None, "x"], "b": (1, 2)}) == ({"a": [1, None, "x"], "b": [1, 2]}, True)
    assert jsonable([datetime(2026, 11, 21, tzinfo=timezone.utc)]) == (["2026-11-21T00:00:00Z"], False)
    assert jsonable(object())[1] is False
    assert jsonable(b"\xff")[1] is False
    assert jsonable(float("nan"))[1] is False
