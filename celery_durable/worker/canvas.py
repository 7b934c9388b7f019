"""The durable task that does a canvas: each part of a chain, group or chord is called by a step of its own.

So a canvas needs no result backend, none of its parts is lost with a message or a worker, and its run shows how far
it has come. A part that is a canvas itself is another such run.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.canvas import Signature, _chain, _chord, group

from ..engine.verbs import step
from .calling import CANVAS

__all__ = ["register_canvas"]


def register_canvas(app: Celery, base: type) -> None:
    """Give an app the task."""

    def run(task: Any, canvas: dict[str, Any], options: dict[str, Any]) -> Any:
        return _Doing(task.app, options).do(Signature.from_dict(canvas, app=task.app))

    app.task(run, name=CANVAS, base=base, bind=True, shared=False, ignore_result=True)


# A part's value is handed on as it is recorded, whatever type its annotation would make of it.
_PLAIN = step.options(returns=Any)
_ROUTES = ("queue", "exchange", "routing_key")


class _Doing:
    """Does the parts of one canvas, in the body of a run."""

    def __init__(self, app: Celery, options: dict[str, Any]) -> None:
        self._app = app
        self._options = options
        """What each part has that does not say otherwise."""

    def do(self, canvas: Signature) -> Any:
        if isinstance(canvas, _chain):
            value: tuple[Any, ...] = ()
            for number, part in enumerate(canvas.tasks, start=1):
                value = (self._part(str(number), self._signature(part), value),)
            return value[0] if value else None
        return self._part("1", canvas, ())

    def _part(self, place: str, part: Signature, value: tuple[Any, ...]) -> Any:
        """One part, which is given the value of the one before it unless it is immutable."""
        if isinstance(part, group):
            return self._group(place, list(part.tasks), value)
        if isinstance(part, _chord):
            header = part.tasks
            members = list(header.tasks) if isinstance(header, group) else list(header)
            results = self._group(place, members, value)
            return self._part(f"{place}:{part.body.task}", self._signature(part.body), (results,))
        return self._call(f"{place}:{part.task}", _given(part, value))

    def _group(self, place: str, members: list[Any], value: tuple[Any, ...]) -> list[Any]:
        """As in Celery, one that fails stops no other; its error is that of the group."""
        with _PLAIN.parallel(settle=True) as block:
            futures = []
            for number, member in enumerate(members):
                part = self._with_options(_given(self._signature(member), value))
                futures.append(block.call(f"{place}[{number}]:{part.task}", part))
        return [future.result() for future in futures]

    def _call(self, id: str, part: Signature) -> Any:
        return _PLAIN.call(id, self._with_options(part))

    def _with_options(self, part: Signature) -> Signature:
        options = self._options
        if any(part.options.get(name) for name in _ROUTES):
            options = {name: value for name, value in options.items() if name not in _ROUTES}
        return part.clone().set(**(options | part.options))

    def _signature(self, part: Any) -> Signature:
        return self._app.signature(part)


def _given(part: Signature, value: tuple[Any, ...]) -> Signature:
    """A part with the value before it as its first argument: of a chain its first part, of a group all."""
    if not value or part.immutable:
        return part
    if isinstance(part, _chain):
        first, *others = part.tasks
        return _chain(_given(first, value), *others, app=part.app)
    if isinstance(part, group):
        return group([_given(member, value) for member in part.tasks], app=part.app)
    if isinstance(part, _chord):
        header = part.tasks
        members = header.tasks if isinstance(header, group) else header
        return _chord([_given(member, value) for member in members], part.body, app=part.app)
    return part.clone(args=value)
