"""Sets that a body goes through: where their order matters, and where it does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from celery_durable import aio, step
from celery_durable.testing.unordered import unordered_places


def looped(names: set[str]) -> None:
    for name in names:
        step.run(name, str, name)


def of_an_argument(names: frozenset[str] = frozenset()) -> Any:
    return [step.run(name, str, name) for name in names]


def listed() -> Any:
    return list({"a", "b"})


def joined() -> Any:
    return ",".join({"a", "b"})


def as_keys() -> Any:
    return dict.fromkeys({"a", "b"})


def popped() -> Any:
    names = {"a", "b"}
    return names.pop()


def mapped() -> Any:
    return step.map("all", str, {"a", "b"})


def of_two() -> Any:
    one, two = {"a"}, {"b"}
    both = {"a"} | {"b"}
    return [name for name in both if name in one or name in two]


def of_a_method() -> None:
    names = {"a"}.union(["b"])
    for name in names:
        step.run(name, str, name)


def numbered() -> None:
    for number, name in enumerate({"a", "b"}):
        step.run(name, str, number)


async def gathered() -> Any:
    return await asyncio.gather(*{aio.step.run("a", str), aio.step.run("b", str)})


def in_a_function_of_the_body() -> Any:
    names = {"a", "b"}

    def each() -> Any:
        return [step.run(name, str, name) for name in names]

    return each()


UNORDERED = [
    looped, of_an_argument, listed, joined, as_keys, popped, mapped, of_two, of_a_method, numbered, gathered,
    in_a_function_of_the_body,
]  # fmt: skip


@pytest.mark.parametrize("body", UNORDERED, ids=lambda body: body.__name__)
def test_where_the_order_matters(body: Callable[..., Any]) -> None:
    (line,) = unordered_places(body.__code__)
    first = body.__code__.co_firstlineno
    assert first < line < first + 9


def sorted_first(names: set[str]) -> Any:
    for name in sorted(names):
        step.run(name, str, name)
    return [step.run(f"{name}!", str) for name in sorted(name.upper() for name in names)]


def only_asked(names: set[str]) -> Any:
    more = names | {"x"}
    if "a" in names and len(more) > 1 and any(name == "b" for name in names) and max(more) > "a":
        return sorted({name.upper() for name in names} - {"X"})
    return sum(len(name) for name in names)


def a_dict(names: dict[str, int]) -> Any:
    return [step.run(name, str) for name in {"a": 1, **names}]


def a_list_of_the_same_name() -> Any:
    names = {"a", "b"}

    def each(names: list[str]) -> Any:
        return [step.run(name, str, name) for name in names]

    return each(sorted(names))


def a_set_that_becomes_a_list() -> Any:
    names: Any = {"a", "b"}
    names = sorted(names)
    return [step.run(name, str, name) for name in names]


ORDERED = [sorted_first, only_asked, a_dict, a_list_of_the_same_name, a_set_that_becomes_a_list]


@pytest.mark.parametrize("body", ORDERED, ids=lambda body: body.__name__)
def test_where_it_does_not(body: Callable[..., Any]) -> None:
    assert unordered_places(body.__code__) == []


def test_what_has_no_source_is_left_alone() -> None:
    scope: dict[str, Any] = {}
    exec("def body(): return [name for name in {1, 2}]", scope)
    assert unordered_places(scope["body"].__code__) == []
