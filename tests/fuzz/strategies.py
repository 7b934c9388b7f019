"""Texts that are nearly what is stored: of the right shape with a wrong part, or cut, or with a byte changed."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

__all__ = ["deep", "json_values", "near_json", "records"]

TAGS = (
    "float", "tuple", "set", "frozenset", "dict", "datetime", "date", "time", "timedelta", "decimal", "uuid", "bytes",
    "event", "pickle", "py/object", "__reduce__",
)  # fmt: skip
ODD_TEXTS = (
    "",
    "\x00",
    "\ud800",
    "🚀",
    "nan",
    "Infinity",
    "1e999",
    "9" * 5000,
    "$",
    "__class__",
    "builtins:eval",
    "a=b",
)

_texts = st.sampled_from(ODD_TEXTS) | st.text(max_size=20)
_scalars = st.none() | st.booleans() | st.integers() | st.floats() | _texts


def _tagged(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(lambda tag, value: {"$": tag, "v": value}, st.sampled_from(TAGS) | inner, inner)


json_values: st.SearchStrategy[Any] = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4) | _tagged(inner) | _tagged(inner)
    ),
    max_leaves=10,
)

deep = st.builds(
    lambda opening, depth, closed: opening * depth + ("]" * depth if closed else ""),
    st.sampled_from(["[", '{"$":"tuple","v":[', '{"a":']),
    st.sampled_from([100, 250, 3_000, 60_000]),
    st.booleans(),
)


@st.composite
def _spoilt(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """A text with a piece taken out, or another one put in its place."""
    text = draw(texts)
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 10)))
    return text[:start] + draw(st.sampled_from(["", "", *'"[]{},:$\\', "null", "\x00"])) + text[end:]


def _nearly(values: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    texts = values.map(json.dumps)
    return texts | texts | _spoilt(texts) | st.text(max_size=30)


near_json = _nearly(json_values) | deep
"""The text of a value, or nearly so."""


def records(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    """JSON objects with these fields, some of which are missing or of any other kind."""

    @st.composite
    def record(draw: st.DrawFn) -> dict[str, Any]:
        drawn = {}
        for name, right in fields.items():
            chosen = draw(st.integers(0, 9))
            if chosen:  # else it is missing
                drawn[name] = draw(json_values if chosen == 1 else right)
        return drawn

    return _nearly(record())
