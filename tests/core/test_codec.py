from __future__ import annotations

import json
import math
from collections import OrderedDict, defaultdict, namedtuple
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_durable.core.codec import TAG, decode, encode, is_json
from celery_durable.core.ids import fingerprint
from celery_durable.errors import DurableError, NotSerializable

NOON = datetime(2026, 11, 21, 12, 0, 0, 123_456, tzinfo=timezone.utc)
Point = namedtuple("Point", "x y")


class Color(Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Name(str):
    """As an ORM has them."""


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1,
        2**70,
        1.5,
        -0.0,
        float("inf"),
        float("-inf"),
        "",
        "text",
        "Grüße 🚀\x00\u2028",
        "\ud800",
        [],
        [1, [2, [3]]],
        {},
        {"a": {"b": [1]}},
        {"$": "bytes", "v": "not what it looks like"},
        {"$": 1},
        {1: "int", 2.5: "float", None: "none", (1, 2): "tuple", True and "b": "str"},
        NOON,
        datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-3, minutes=-30))),
        datetime(2026, 1, 1),  # noqa: DTZ001
        date(2026, 11, 21),
        time(12, 30, 0, 5),
        timedelta(days=-1, microseconds=7),
        Decimal("10.10"),
        Decimal("-0"),
        Decimal("Infinity"),
        UUID("12345678-1234-5678-1234-567812345678"),
        b"",
        b"\x00\xff",
        (),
        (1, (2,), [3]),
        set(),
        {1, 2, 3},
        pytest.param({"a", 1, None, (1, 2)}, id="a set of several types"),
        frozenset({frozenset({1}), frozenset()}),
        [{"when": NOON, "sums": (Decimal("1.0"), b"x")}],
    ],
    ids=repr,
)
def test_round_trip(value: Any) -> None:
    text = encode(value)
    back = decode(text)
    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value) or isinstance(value, (set, frozenset))
    assert text.isascii()
    json.loads(text)


def test_nan_is_kept() -> None:
    assert math.isnan(decode(encode(float("nan"))))


_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.datetimes()
    | st.datetimes(timezones=st.just(timezone.utc))
    | st.times()
    | st.timedeltas()
)
_keys = st.recursive(_scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=3)
_values = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(_keys, inner, max_size=4)
        | st.dictionaries(st.text() | st.just("$"), inner, max_size=4)
        | st.sets(_keys, max_size=4)
    ),
    max_leaves=12,
)


def _same(left: Any, right: Any) -> bool:
    """Equal, and of equal types all the way down (`1 == True == 1.0` is not enough)."""
    if type(left) is not type(right) or left != right:
        return False
    if isinstance(left, (list, tuple)):
        return all(_same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict):
        keys = {key: key for key in right}
        return all(type(key) is type(keys[key]) and _same(item, right[key]) for key, item in left.items())
    return True


@given(_values)
@settings(deadline=None)
def test_whatever_is_encoded_is_decoded_as_what_it_was(value: Any) -> None:
    text = encode(value)
    assert text.isascii()
    assert _same(decode(text), value)
    assert encode(decode(text)) == text or "set" in text


@given(st.dictionaries(_keys, st.integers() | st.dictionaries(st.text(), st.text())))
@settings(deadline=None)
def test_equal_mappings_have_one_fingerprint(value: dict[Any, Any]) -> None:
    backwards = dict(reversed(list(value.items())))
    assert fingerprint(encode(backwards)) == fingerprint(encode(value))


@pytest.mark.parametrize("value", [{1: "a", 2: "b"}, {"$": 1, "a": 2}])
def test_equal_mappings_of_any_keys_have_one_fingerprint(value: dict[Any, Any]) -> None:
    backwards = dict(reversed(list(value.items())))
    assert fingerprint(encode([backwards])) == fingerprint(encode([value]))


def test_a_set_has_one_form() -> None:
    up, down = set(range(0, 1_000, 7)), set(range(994, -1, -7))
    assert encode({str(number) for number in up}) == encode({str(number) for number in down})


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Color.RED, "red"),
        (Level.HIGH, 3),
        (Point(1, 2), (1, 2)),
        (OrderedDict(a=1), {"a": 1}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        (bytearray(b"x"), b"x"),
        (type("Name", (str,), {})("n"), "n"),
        (type("Count", (int,), {})(5), 5),
        (type("Ratio", (float,), {})(0.5), 0.5),
    ],
)
def test_a_subclass_is_stored_as_what_it_is_made_of(value: object, plain: object) -> None:
    back = decode(encode(value))
    assert back == plain
    assert type(back) is type(plain)


class Opaque:
    pass


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Opaque(), ""),
        ([1, Opaque()], " at [1]"),
        ({"a": [{"b": Opaque()}]}, " at ['a'][0]['b']"),
        (("x", {"deep": (Opaque(),)}), " at [1]['deep'][0]"),
        ({1: Opaque()}, " at [1]"),
        ({Opaque(): 1}, " at .keys()"),
    ],
)
def test_the_error_says_which_step_where_inside_and_what_type(value: object, path: str) -> None:
    with pytest.raises(NotSerializable) as caught:
        encode(value, "the result of step 'charge'")
    assert str(caught.value).startswith(
        f"the result of step 'charge' can't be stored: {__name__}.Opaque{path} has no durable form. "
    )


@pytest.mark.parametrize("value", [Opaque, len, lambda: 0, object(), iter([]), range(3), 1j, Exception("x")])
def test_what_carries_code_or_state_is_refused(value: object) -> None:
    with pytest.raises(NotSerializable):
        encode(value)


class Proxy:
    """As a framework's proxies are outside of a request."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise RuntimeError("working outside of request context")


def test_a_proxy_of_nothing_is_refused() -> None:
    with pytest.raises(NotSerializable):
        encode([Proxy()])


def test_a_coroutine_is_explained() -> None:
    async def fetch() -> None: ...

    coroutine = fetch()
    with pytest.raises(NotSerializable, match="await it"):
        encode(coroutine)
    coroutine.close()


def test_a_value_that_holds_itself_is_refused() -> None:
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(NotSerializable, match="nested deeper than 200 levels"):
        encode(circle)


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: (inner,), lambda inner: {"k": inner}])
def test_what_is_just_deep_enough_comes_back(wrap: Any) -> None:
    value: Any = 1
    for _ in range(200):
        value = wrap(value)
    assert decode(encode(value)) == value
    with pytest.raises(NotSerializable):
        encode(wrap(wrap(value)))


def test_a_number_that_python_does_not_print_is_refused() -> None:
    assert decode(encode(10**4_000)) == 10**4_000
    with pytest.raises(NotSerializable, match="the input"):
        encode({"n": 10**5_000}, "the input")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"$":"pickle","v":"gASV"}',
        '{"$":"datetime","v":"yesterday"}',
        '{"$":"datetime"}',
        '{"$":["a"],"v":1}',
        '{"$":"decimal","v":"x"}',
        '{"$":"set","v":[[]]}',
        '{"$":"uuid","v":1}',
        '{"$":"timedelta","v":[1,2,3,4,5,6,7,8]}',
        '{"$":"dict","v":[1]}',
        "[" * 100_000,
    ],
)
def test_a_spoilt_text_is_one_error(text: str) -> None:
    with pytest.raises(DurableError, match="can't be decoded"):
        decode(text)


_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text().filter(lambda key: key != TAG), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(_json)
def test_plain_json_is_its_own_form(value: Any) -> None:
    assert is_json(value)
    assert encode(value) == json.dumps(value, separators=(",", ":"))
    assert decode(encode(value)) == value


@pytest.mark.parametrize(
    "value",
    [
        (1, 2), {1}, b"x", math.nan, math.inf, Name("ada"), {1: "a"}, {TAG: "a"}, {Name("a"): 1}, [[(1,)]],
        {"a": {"b": {1: 2}}}, Decimal(1), object(), _nested(300), Level.HIGH,
    ],
)  # fmt: skip
def test_what_is_more_than_plain_json(value: Any) -> None:
    assert not is_json(value)


def test_a_text_that_looks_like_a_tag_is_a_text() -> None:
    for value in ('"$"', {"a": '"$"'}, ["$"], {"a": "$"}):
        assert decode(encode(value)) == value
