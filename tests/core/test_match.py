"""Names, keys and patterns of events, and the values that a payload must have."""

from __future__ import annotations

import fnmatch
from collections import OrderedDict
from collections.abc import Iterator
from datetime import datetime, timezone
from decimal import Decimal
from enum import Enum
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_durable.core.codec import decode, encode
from celery_durable.core.ids import MAX_ID, gate_of
from celery_durable.core.match import (
    check_event_id,
    check_event_key,
    check_event_name,
    check_match,
    check_pattern,
    covers,
    matches,
)

NOON = datetime(2026, 11, 21, 12, 0, tzinfo=timezone.utc)
ORDER = {
    "plan": "pro",
    "paid": True,
    "count": 1,
    "nothing": None,
    "items": [{"sku": "a-1", "tags": ["x", "y"]}, {"sku": "b-2", "tags": []}],
    "customer": {"name": "Ann", "address": {"city": "Ulm"}},
    "a.b": 1,
    "a": {"b": 2, "b.c": 3},
    "0": "zero",
    "": {"": "empty"},
    "Grüße": {"é": "🚀"},
}

# -- Names, keys, ids


@pytest.mark.parametrize("check", [check_event_name, check_event_key, check_event_id])
@pytest.mark.parametrize("good", ["a", "order.paid", "order paid", "Grüße 🚀", "x" * MAX_ID, "a*b", "user:1", "0"])
def test_good_ones_are_given_back(check: Any, good: str) -> None:
    assert check(good) == good


@pytest.mark.parametrize("check", [check_event_name, check_event_key, check_event_id])
@pytest.mark.parametrize("bad", ["", " ", " a", "a ", "a\n", "a\tb", "\x00", "a\u2028b", "\ud800", "x" * (MAX_ID + 1)])
def test_bad_ones_are_refused(check: Any, bad: str) -> None:
    with pytest.raises(ValueError, match="event") as caught:
        check(bad)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("check", [check_event_name, check_event_key, check_event_id])
@pytest.mark.parametrize("other", [1, 1.5, b"a", ["a"], UUID(int=1)])
def test_what_is_no_string_is_another_error(check: Any, other: object) -> None:
    with pytest.raises(TypeError) as caught:
        check(other)
    assert repr(other) in str(caught.value)
    assert "is a string" in str(caught.value)


def test_none_is_a_key_and_nothing_else() -> None:
    assert check_event_key(None) is None
    for check in (check_event_name, check_event_id):
        with pytest.raises(TypeError):
            check(None)


def test_a_name_does_not_end_as_a_wildcard_does() -> None:
    with pytest.raises(ValueError, match="wildcard"):
        check_event_name("order.*")
    assert check_event_key("order.*") == check_event_id("order.*") == "order.*"


@given(st.text(max_size=MAX_ID + 5), st.sampled_from([check_event_name, check_event_key, check_event_id]))
def test_what_is_accepted_is_the_same_in_every_database(text: str, check: Any) -> None:
    try:
        assert check(text) == text
    except ValueError:
        return
    assert 0 < len(text) <= MAX_ID
    assert text == text.strip()
    text.encode()


# -- Patterns


@pytest.mark.parametrize(
    ("pattern", "name", "covered"),
    [
        ("order.paid", "order.paid", True),
        ("order.paid", "order.paid.late", False),
        ("order.paid", "order.pai", False),
        ("order.paid", "Order.Paid", False),
        ("order.*", "order.paid", True),
        ("order.*", "order.", True),
        ("order.*", "order", False),
        ("order.*", "orders.paid", False),
        ("order*", "orders.paid", True),
        ("*", "anything", True),
        ("o?der", "order", False),
        ("[a]*", "a", False),
    ],
)
def test_which_names_a_pattern_covers(pattern: str, name: str, covered: bool) -> None:
    assert covers(check_pattern(pattern), name) is covered


@pytest.mark.parametrize("pattern", ["", "**", "a**", "*.paid*", " *", " a*", " ", "x" * (MAX_ID + 1) + "*"])
def test_bad_patterns(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"\*|event's name|the most"):
        check_pattern(pattern)


@pytest.mark.parametrize("pattern", [None, 1, b"order.*", ["order"]])
def test_a_pattern_is_a_string(pattern: object) -> None:
    with pytest.raises(TypeError):
        check_pattern(pattern)


words = st.text("ab.*", min_size=1, max_size=5)


@given(words, words)
def test_a_star_at_the_end_is_the_only_wildcard(pattern: str, name: str) -> None:
    try:
        checked = check_pattern(pattern)
    except ValueError:
        assert "*" in pattern
        return
    if "*" not in pattern[:-1]:
        assert covers(checked, name) is fnmatch.fnmatchcase(name, pattern)


# -- Matches


@pytest.mark.parametrize("match", [None, {}, {"a": 1}, OrderedDict(a=1), MappingProxyType({"a": 1})])
def test_a_match_is_a_mapping(match: Any) -> None:
    checked = check_match(match)
    assert checked is None if match is None else type(checked) is dict and checked == match


def test_a_match_is_a_copy() -> None:
    match = {"a": 1}
    checked = check_match(match)
    match["a"] = 2
    assert checked == {"a": 1}


@pytest.mark.parametrize("match", [1, "plan", ["plan"], [("plan", "pro")], {1: 2}, {"": 1}, {None: 1}, {"a": 1, 2: 3}])
def test_wrong_matches(match: Any) -> None:
    with pytest.raises(
        TypeError, match=r"a mapping of payload paths to values is expected, such as {\"plan\": \"pro\"}"
    ):
        check_match(match)


@pytest.mark.parametrize(
    "match",
    [
        None,
        {},
        {"plan": "pro"},
        {"plan": "pro", "count": 1},
        {"nothing": None},
        {"items.0.sku": "a-1"},
        {"items.1.sku": "b-2", "items.0.tags.1": "y"},
        {"items.1.tags": []},
        {"items.0": {"tags": ["x", "y"], "sku": "a-1"}},
        {"items.0.tags": ("x", "y")},
        {"customer.address.city": "Ulm"},
        {"customer.address": {"city": "Ulm"}},
        {"a.b": 1},
        {"a.b": 2},
        {"a.b.c": 3},
        {"0": "zero"},
        {"Grüße.é": "🚀"},
        {"items.00.sku": "a-1"},
        {".": "empty"},
        {"count": 1.0},
        {"count": Decimal(1)},
    ],
)
def test_what_holds(match: Any) -> None:
    assert matches(match, ORDER)


@pytest.mark.parametrize(
    "match",
    [
        {"plan": "free"},
        {"plan": "Pro"},
        {"plan": "pro", "count": 2},
        {"missing": None},
        {"plan.x": "pro"},
        {"nothing.x": None},
        {"items": "a-1"},
        {"items.2.sku": "a-1"},
        {"items.-1.sku": "b-2"},
        {"items.sku": "a-1"},
        {"items.²": {}},
        {"items.\u0660.sku": "a-1"},
        {"items.99999999999999999999": {}},
        {"items.": []},
        {"items.0.tags": ["y", "x"]},
        {"items.0.tags": ["x"]},
        {"customer": {"name": "Ann"}},
        {"paid": 1},
        {"count": True},
        {"count": "1"},
        {"a.b": 3},
        {".plan": "pro"},
        {"plan.": "pro"},
    ],
)
def test_what_does_not_hold(match: Any) -> None:
    assert not matches(match, ORDER)


@pytest.mark.parametrize(
    ("expected", "found", "equal"),
    [
        (True, True, True),
        (True, 1, False),
        (0, False, False),
        ([True], [1], False),
        ({"x": [1, {"y": False}]}, {"x": [1, {"y": 0}]}, False),
        ({"x": [1, {"y": 0.0}]}, {"x": [1, {"y": 0}]}, True),
        ("1", 1, False),
        ([], {}, False),
        ("ab", ["a", "b"], False),
        (None, 0, False),
        (None, None, True),
        (2**70, 2**70, True),
        (NOON, NOON, True),
        (NOON, NOON.replace(tzinfo=None), False),
        (NOON, NOON.isoformat(), False),
        (NOON.date(), NOON, False),
        (Decimal("9.90"), Decimal("9.9"), True),
        (UUID(int=1), UUID(int=1), True),
        (UUID(int=1), str(UUID(int=1)), False),
        (frozenset({1}), {1}, True),
        ((1, 2), [1, 2], True),
        (float("nan"), float("nan"), False),
    ],
)
def test_which_values_are_equal(expected: Any, found: Any, equal: bool) -> None:
    assert matches({"a": expected}, {"a": found}) is equal
    assert matches({"a.0": expected}, {"a": [found]}) is equal
    assert matches({"a": [expected]}, {"a": (found,)}) is equal


def test_an_empty_key_in_a_list() -> None:
    assert matches({"a.": 1}, {"a": {"": 1}})
    assert not matches({"a.": []}, {"a": []})
    assert matches({"0.": 1}, [{"": 1}])
    assert not matches({"0.": 1}, [1])


def test_an_enum_stands_for_its_value() -> None:
    class Plan(Enum):
        PRO = "pro"

    match = check_match({"plan": Plan.PRO})
    assert match is not None
    assert matches(decode(encode(match)), ORDER)  # as a wait has it
    assert matches(match, ORDER)  # as on_event(when=...) has it


def test_a_value_that_can_not_be_compared_is_not_equal() -> None:
    class Odd:
        def __eq__(self, other: object) -> bool:
            raise RuntimeError("no")

        __hash__ = None  # type: ignore[assignment]

    assert not matches({"a": 1}, {"a": Odd()})


@pytest.mark.parametrize("payload", [None, 1, "plan", True, [], ["plan"], NOON])
def test_payloads_that_have_no_such_place(payload: Any) -> None:
    assert not matches({"plan": "pro"}, payload)
    assert matches({}, payload)


def test_a_payload_that_is_a_list() -> None:
    assert matches({"0.sku": "a", "1": None}, [{"sku": "a"}, None])
    assert not matches({"0": "a"}, "a")


# -- For any payload

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab.0", max_size=4), inner, max_size=3),
    max_leaves=10,
)


def places(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every path into a payload, with what is there."""
    if isinstance(value, list):
        inner = [(str(index), item) for index, item in enumerate(value)]
    else:
        inner = list(value.items()) if isinstance(value, dict) else []
    for head, item in inner:
        place = f"{path}.{head}" if path else head
        if place and (head or not path):
            yield place, item
            yield from places(item, place)


@given(plain)
def test_a_payload_has_what_it_has(payload: Any) -> None:
    for path, value in places(payload):
        assert matches({path: value}, payload)
        assert matches({path: decode(encode(value))}, payload)
        assert not matches({path: ["no such value"]}, payload)


@given(plain, st.text("ab.0", min_size=1, max_size=6), plain)
def test_storing_changes_no_answer(payload: Any, path: str, value: Any) -> None:
    match = {path: value}
    stored = decode(encode(match, "the match"))
    assert matches(match, payload) is matches(stored, payload) is matches(match, decode(encode(payload)))
    assert matches({path: value}, {path: value})


@given(plain, st.lists(st.text("ab.0", min_size=1, max_size=4), unique=True, max_size=3), plain)
def test_all_of_it_must_hold(payload: Any, paths: list[str], value: Any) -> None:
    match = dict.fromkeys(paths, value)
    assert matches(match, payload) is all(matches({path: value}, payload) for path in paths)


# -- Gates


@given(st.lists(st.text(max_size=5), min_size=1, max_size=3), st.lists(st.text(max_size=5), min_size=1, max_size=3))
def test_a_gate_is_a_number_of_64_bits(one: list[str], other: list[str]) -> None:
    assert -(2**63) <= gate_of(*one) < 2**63
    assert (gate_of(*one) == gate_of(*other)) is (one == other)
