"""Types at the durable boundary.

What crosses it (a run's arguments and result, a step's arguments and result) is checked against the
function's annotations with pydantic on the way out and on the way in. An annotation that pydantic
can't handle counts as none: the value then has to be plain data.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, get_origin, get_type_hints

from pydantic import (
    PydanticSchemaGenerationError,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)

from ..errors import NotSerializable
from .codec import decode, encode, is_json

__all__ = ["Boundary", "Signature", "hints_of", "plain_form", "signature_of"]

_PLAIN = (Any, object, inspect.Parameter.empty)
_EXACT = {str: str, int: int, bool: bool, None: type(None), type(None): type(None)}
"""Annotations whose values are what they are, stored and read. Nobody has to be asked about these."""
_NAMED = dict[str, Any]
_OPEN: tuple[Any, ...] = (dict, _NAMED, list, list[Any])
"""Annotations that say nothing of what is in their values: where that is plain JSON data, it is what it is."""


class Boundary:
    """One annotated place that values cross in both directions."""

    __slots__ = ("_adapter", "_exact", "_open", "annotation")

    def __init__(self, annotation: Any = Any) -> None:
        self.annotation = annotation
        self._adapter = _adapter(annotation)
        self._exact = _EXACT.get(annotation) if isinstance(annotation, type | None) else None
        self._open = (get_origin(annotation) or annotation) if annotation in _OPEN else None

    def write(self, value: Any, what: str) -> str:
        """The value as text, once it is known to fit."""
        if self._adapter is None:
            return encode(value, what)
        if self._is_fitting(value):
            return encode(value, what, is_plain=True)
        return encode(self._dumped(value, what), what)

    def plain(self, value: Any, what: str) -> Any:
        """The value in plain types, once it is known to fit."""
        return value if self._is_plain(value) else self._dumped(value, what)

    def _is_plain(self, value: Any) -> bool:
        """Whether :meth:`plain` gives the value itself."""
        return self._adapter is None or self._is_fitting(value)

    def _dumped(self, value: Any, what: str) -> Any:
        assert self._adapter is not None
        fitting = self._fit(value, what)
        plain = self._adapter.dump_python(fitting, round_trip=True, warnings=False)
        self._fit(plain, f"{what}, once stored,")  # a field that is left out would be missed at every replay
        return plain

    def read(self, text: str, what: Callable[[], str]) -> Any:
        """The value of a text that :meth:`write` made. What it is called is asked for only where somebody has to be."""
        value = decode(text)
        return value if self._is_typed(value) else self._fit(value, what())

    def typed(self, value: Any, what: str) -> Any:
        """A plain value as the annotation's type."""
        return value if self._is_typed(value) else self._fit(value, what)

    def _is_typed(self, value: Any) -> bool:
        """Whether :meth:`typed` gives the value itself."""
        return self._adapter is None or self._is_as_said(value)

    def _is_fitting(self, value: Any) -> bool:
        """Whether it is stored as it is, and nobody has to be asked."""
        kind = type(value)
        return kind is self._exact or (kind is self._open and is_json(value))

    def _is_as_said(self, value: Any) -> bool:
        """Whether it is what the annotation says, and nobody has to be asked."""
        kind = type(value)
        if kind is self._open:
            return self.annotation != _NAMED or all(type(key) is str for key in value)
        return kind is self._exact

    def _fit(self, value: Any, what: str) -> Any:
        assert self._adapter is not None
        try:
            return self._adapter.validator.validate_python(value, by_alias=True, by_name=True)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(str(part) for part in problem['loc']) or 'the value'}: {problem['msg']}"
                for problem in error.errors(include_url=False)[:5]
            )
            name = getattr(self.annotation, "__name__", None) or str(self.annotation)
            raise NotSerializable(
                f"{what} does not fit its annotation {name}: {problems}. Change the annotation or what is handed over."
            ) from None


def plain_form(value: Any, what: str) -> Any:
    """A value that has no annotation, in plain types: a model or a dataclass is taken by its fields."""
    kind = type(value)
    if hasattr(kind, "model_dump") or hasattr(kind, "__dataclass_fields__"):
        return Boundary(kind).plain(value, what)
    return value


@lru_cache(maxsize=4096)
def _cached_adapter(annotation: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(annotation)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError, TypeError, NameError):
        return None


def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    if annotation in _PLAIN:
        return None
    if annotation is None:
        annotation = type(None)
    try:
        return _cached_adapter(annotation)
    except TypeError:  # an annotation that can't be hashed, such as Annotated[int, []]
        return _cached_adapter.__wrapped__(annotation)


class Signature:
    """The boundaries of one function: its parameters by name, and its result.

    The first ``skipped`` parameters are given by others than who calls it: a method's object, a transaction's session.
    """

    __slots__ = ("_parameters", "_places", "_signature", "result", "typed")

    def __init__(self, fn: Callable[..., Any], skipped: int = 0) -> None:
        hints = hints_of(fn)
        self.result = Boundary(hints.pop("return", Any))
        self._parameters = {name: Boundary(hint) for name, hint in hints.items()}
        self.typed = bool(self._parameters)
        self._signature: inspect.Signature | None = None
        if self.typed:
            try:
                self._signature = inspect.signature(fn)
            except (TypeError, ValueError):
                self.typed = False
        self._places = _places(self._signature, skipped)

    def plain(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], what: str) -> tuple[list[Any], dict[str, Any]]:
        """The arguments in plain types. Arguments that don't fit the signature are left to the call."""
        return self._convert(args, kwargs, what, Boundary._is_plain, Boundary._dumped)

    def arguments(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], what: str
    ) -> tuple[list[Any], dict[str, Any]]:
        """Plain arguments as what the annotations say."""
        return self._convert(args, kwargs, what, Boundary._is_typed, Boundary._fit)

    def _convert(
        self,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        what: str,
        is_so: Callable[[Boundary, Any], bool],
        convert: Callable[[Boundary, Any, str], Any],
    ) -> tuple[list[Any], dict[str, Any]]:
        if not self.typed or self._signature is None:
            return list(args), dict(kwargs)

        def converted(name: str | None, value: Any) -> Any:
            boundary = self._parameters.get(name) if name is not None else None
            if boundary is None or is_so(boundary, value):
                return value
            return convert(boundary, value, f"{what}, argument {name!r},")

        positions, rest, others = self._places
        known = self._signature.parameters
        by_position = [
            converted(positions[index] if index < len(positions) else rest, value) for index, value in enumerate(args)
        ]
        by_name = {name: converted(name if name in known else others, value) for name, value in kwargs.items()}
        return by_position, by_name


def _places(signature: inspect.Signature | None, skipped: int) -> tuple[list[str], str | None, str | None]:
    """The positional parameters, and those that take what is over: ``*rest`` and ``**others``."""
    names, rest, others = [], None, None
    for parameter in signature.parameters.values() if signature is not None else ():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
        elif parameter.kind is parameter.VAR_POSITIONAL:
            rest = parameter.name
        elif parameter.kind is parameter.VAR_KEYWORD:
            others = parameter.name
    return names[skipped:], rest, others


def hints_of(fn: Callable[..., Any]) -> dict[str, Any]:
    """What a function's parameters, and its ``return``, are annotated with."""
    target = inspect.unwrap(fn) if not inspect.isclass(fn) else fn.__init__
    target = getattr(target, "__func__", target)
    if not getattr(target, "__annotations__", None):
        call = type(target).__call__  # an object that is called by its class's __call__
        if inspect.isfunction(target) or not getattr(call, "__annotations__", None):
            return {}
        target = call
    try:
        hints = get_type_hints(target, include_extras=True)
    except Exception:  # a forward reference that can't be resolved, or an exotic callable
        hints = {k: v for k, v in target.__annotations__.items() if not isinstance(v, str)}
    if inspect.isclass(fn):
        hints["return"] = fn
    return hints


_UNANNOTATED = Signature(lambda: None)


def signature_of(fn: Callable[..., Any], handed: int = 0) -> Signature:
    """The boundaries of a function, made once for it. ``handed`` is how many arguments it is given before its own."""
    function = getattr(fn, "__func__", fn)
    if getattr(function, "__annotations__", None) == {} and not hasattr(function, "__wrapped__"):
        return _UNANNOTATED
    skipped = handed + (function is not fn)
    try:
        return _cached_signature(function, skipped)
    except TypeError:  # a callable object that can't be hashed
        return Signature(function, skipped)


@lru_cache(maxsize=4096)
def _cached_signature(fn: Callable[..., Any], skipped: int) -> Signature:
    return Signature(fn, skipped)
