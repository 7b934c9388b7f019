"""Iterating over a set: in an order that is another one in every process, as strings have other hashes in each.

Nothing tells of that while it happens, and in one process it is always the same. So it is looked for in the source of
the functions that a body is made of: what is written as a set there, or was made one by ``set(...)`` in the same
function; and where the source does not tell, what the variable holds, or what the call has returned.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from asyncio import Future
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple

__all__ = ["SET_ORDER", "has_no_order", "unordered_now", "unordered_places"]

SET_ORDER = "set order"
"""What going through a set is called."""
_MAKERS = frozenset({"set", "frozenset"})
_ORDERLESS = _MAKERS | {"all", "any", "len", "max", "min", "sorted", "sum"}
"""Functions whose value is the same, in whatever order they are given the items."""
_KEEPERS = frozenset({"list", "tuple", "enumerate", "iter", "next", "map", "filter", "zip", "reversed"})
"""Functions whose value, or what they do, has the order of what they are given."""
_LOOPS = (ast.For, ast.AsyncFor, ast.comprehension)
_SET_METHODS = frozenset({"union", "intersection", "difference", "symmetric_difference", "copy"})


class _Function(NamedTuple):
    """What the source of a function tells: the lines in which it goes through a set, and where it goes through
    something of which the source does not tell what it is, from which line to which."""

    code: CodeType
    places: list[int]
    unknown: list[tuple[int, int, ast.expr]]


_functions: dict[int, _Function] = {}
"""By the ids of their code, whose hash takes as long as all the rest."""


def unordered_places(code: CodeType) -> list[int]:
    """The lines of a function in which the order of a set matters, as far as its source tells."""
    return _function_of(code).places


def unordered_now(frame: FrameType, returned_by: str | None = None) -> list[int]:
    """The lines of a function that is being executed in which the order of a set matters: by what its variables hold,
    or by what is being returned to it by a function of this name."""
    found = []
    for line, last, node in _function_of(frame.f_code).unknown:
        if returned_by is None:
            goes_through_set = has_no_order(_value_of(node, frame))
        else:
            goes_through_set = line <= frame.f_lineno <= last and _may_be_from(node, returned_by)
        if goes_through_set:
            found.append(line)
    return found


def has_no_order(value: Any) -> bool:
    """Whether this is a set whose order is another one in every process. Numbers have one order. What ``asyncio.wait``
    returns is gone through to be cancelled, or for the one that is done."""
    if not isinstance(value, (set, frozenset)):
        return False
    return any(not isinstance(item, (int, Future)) for item in value)


def _function_of(code: CodeType) -> _Function:
    known = _functions.get(id(code))
    if known is None:
        known = _functions[id(code)] = _read(code)
    return known


def _read(code: CodeType) -> _Function:
    if code.co_name.startswith("<"):  # a comprehension or a lambda: part of a function that has it in its source
        return _Function(code, [], [])
    try:
        lines, first = inspect.getsourcelines(code)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return _Function(code, [], [])
    sets = _names_of_sets(tree)
    unknown = [node for node in _uses(list(_without_functions(tree))) if not _is_set(node, sets)]
    return _Function(
        code,
        [first - 1 + node.lineno for node in _uses(list(ast.walk(tree))) if _is_set(node, sets)],
        [(first - 1 + node.lineno, first - 1 + (node.end_lineno or node.lineno), node) for node in unknown],
    )


def _without_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function, without those of functions in it: these have variables of their own."""
    (function,) = ast.iter_child_nodes(tree)
    waiting = list(getattr(function, "body", []))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            waiting += ast.iter_child_nodes(node)


def _value_of(node: ast.expr, frame: FrameType) -> Any:
    """What a variable or an attribute holds; ``None`` where it would have to be computed."""
    if isinstance(node, ast.Name):
        return frame.f_locals.get(node.id, frame.f_globals.get(node.id))
    if isinstance(node, ast.Attribute):
        return getattr(_value_of(node.value, frame), "__dict__", {}).get(node.attr)
    return None


def _may_be_from(node: ast.expr, name: str) -> bool:
    """Whether an expression calls a function of this name. What is awaited may come from any."""
    if isinstance(node, ast.Await):
        return True
    function = node.func if isinstance(node, ast.Call) else None
    called = getattr(function, "attr", None) or getattr(function, "id", None)
    return called == name


def _names_of_sets(tree: ast.AST) -> set[str]:
    """The variables that hold sets, and nothing else."""
    sets: set[str] = set()
    others: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            (sets if _says_set(node.annotation) else others).add(node.arg)
            continue
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            targets, value = [node.target], node.value
        else:
            continue
        names = {target.id for target in targets if isinstance(target, ast.Name)}
        if _is_set(value, sets):
            sets |= names
        else:
            others |= names
    return sets - others


def _says_set(annotation: ast.expr | None) -> bool:
    if isinstance(annotation, ast.Subscript):
        annotation = annotation.value
    return isinstance(annotation, ast.Name) and annotation.id in _MAKERS


def _is_set(node: ast.AST, sets: set[str]) -> bool:
    if isinstance(node, (ast.Set, ast.SetComp)):
        return True
    if isinstance(node, ast.Name):
        return node.id in sets
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitOr, ast.BitAnd, ast.Sub, ast.BitXor)):
        return _is_set(node.left, sets)
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Name):
            return node.func.id in _MAKERS
        return (
            isinstance(node.func, ast.Attribute) and node.func.attr in _SET_METHODS and _is_set(node.func.value, sets)
        )
    return False


def _uses(nodes: list[ast.AST]) -> Iterator[ast.expr]:
    """What is gone through where its order matters. In a set or a ``sorted(...)`` made of it, it does not."""
    harmless = {id(generator) for node in nodes for generator in _generators_without_order(node)}
    for node in nodes:
        if isinstance(node, ast.Call):
            yield from _calls(node)
        elif isinstance(node, ast.Starred):
            yield node.value
        elif isinstance(node, _LOOPS) and id(node) not in harmless:
            yield node.iter


def _calls(node: ast.Call) -> Iterator[ast.expr]:
    function = node.func
    if isinstance(function, ast.Name) and function.id in _KEEPERS:
        yield from node.args
    elif isinstance(function, ast.Attribute):
        if function.attr == "pop" and not node.args:
            yield function.value
        elif function.attr in ("join", "fromkeys"):
            yield from node.args
        elif function.attr == "map" and len(node.args) > 2:  # step.map(id, fn, items)
            yield from node.args[2:]


def _generators_without_order(node: ast.AST) -> Iterator[ast.comprehension]:
    if isinstance(node, ast.SetComp):
        yield from node.generators
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _ORDERLESS:
        for argument in node.args:
            if isinstance(argument, (ast.GeneratorExp, ast.ListComp)):
                yield from argument.generators
