"""Replaying a run: a new one of the same task, with the same input or an edited one.

The input is shown without its secrets, so what nobody has changed is not sent along: the new run takes it from the
original. Something that is hidden and would have to be sent is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from werkzeug.wrappers import Response

from ...client.words import counted
from ...core.redaction import MASK
from ...errors import TaskNotFound
from ...model import FINISHED, Run
from ..forms import ABSENT, Form, jsonable
from ..texts import text_of
from ..visit import Visit
from .arguments import json_arguments
from .asking import Ask, asking, cannot, deed_of, do, new_id_of, refused

__all__ = ["replay"]

_HIDDEN = f"It holds {MASK}, which stands for a secret that is not shown here: type it anew, or change nothing at all."


@dataclass(frozen=True)
class Input:
    """A run's input as JSON has it, and how to ask for another one."""

    args: list[Any]
    kwargs: dict[str, Any]
    exact: bool
    """Whether JSON says it exactly."""
    form: Form | None
    """Its fields, where this process knows the task and the input fits it."""
    names: tuple[str, ...] = ()
    """Of the arguments that were given by their place."""

    @property
    def named(self) -> dict[str, Any]:
        """All arguments by name."""
        return dict(zip(self.names, self.args, strict=False)) | self.kwargs

    def texts(self) -> dict[str, str]:
        """What the fields hold."""
        if self.form is not None:
            return self.form.texts(self.named)
        return {"args": text_of("json", self.args), "kwargs": text_of("json", self.kwargs)}


def replay(visit: Visit, run_id: str) -> Response:
    """The page of a replay."""
    run = visit.durable.get(run_id, values=False)
    if refusal := refused("replay", run):
        return cannot(visit, "replay", run, refusal)
    given = _input_of(visit, run)
    lines = [
        f"A new run of {run.task} starts from the beginning: all steps are done anew, with all their effects.",
        "This run is left as it is." + ("" if run.status in FINISHED else " It goes on beside the new one."),
        "The new run has no callbacks, and is not part of a chain or a chord.",
    ]
    if given.form is not None and not given.form.fields:
        lines.append("It takes no arguments.")
    ask = Ask("replay", run, "Replay this run?", "Start the new run", lines)
    errors: dict[str, str] = {}
    ask.more = {"given": given, "texts": given.texts(), "errors": errors}
    if visit.request.method == "GET":
        return asking(visit, ask, "replay.html")
    typed = visit.request.form.to_dict()
    ask.more["texts"] = typed
    changed = _read(given, typed, errors)
    if errors:
        return asking(
            visit, ask, "replay.html", problem=f"{counted(len(errors), 'field')} to look at again.", status=400
        )
    return do(
        visit,
        ask,
        lambda: visit.durable.replay(run.id, **changed, task_id=new_id_of(visit), **deed_of(visit)),
        "replay.html",
    )


def _input_of(visit: Visit, run: Run) -> Input:
    args, exact_args = jsonable(list(run.args or ()))
    kwargs, exact_kwargs = jsonable(dict(run.kwargs or {}))
    exact = exact_args and exact_kwargs
    try:
        parameters = visit.durable.task(run.task).parameters
    except TaskNotFound:
        return Input(args, kwargs, exact, None)
    names = tuple(parameters["properties"])
    known = set(names) if not parameters.get("additionalProperties") else {*names, *kwargs}
    fits = len(args) <= len(names) and set(kwargs) <= known and not set(names[: len(args)]) & set(kwargs)
    if visit.args.get("as") == "json" or not fits:
        return Input(args, kwargs, exact, None)
    return Input(args, kwargs, exact, Form(parameters), names[: len(args)])


def _read(given: Input, typed: Mapping[str, str], errors: dict[str, str]) -> dict[str, Any]:
    """The arguments that differ from those of the original, as they are handed over."""
    args, kwargs = _arguments(given, typed, errors)
    if errors:
        return {}
    changed: dict[str, Any] = {}
    if args != given.args:
        changed["args"] = args
    if kwargs != given.kwargs:
        changed["kwargs"] = kwargs
    for name, value in changed.items():
        for place, item in enumerate(value) if name == "args" else value.items():
            if _holds_mask(item):
                field = given.names[place] if name == "args" and given.form is not None else place
                errors[_field_of(given, name, str(field))] = _HIDDEN
    return changed


def _arguments(given: Input, typed: Mapping[str, str], errors: dict[str, str]) -> tuple[list[Any], dict[str, Any]]:
    if given.form is None:
        return json_arguments(typed, errors)
    filled = given.form.read(typed, given.named)
    errors.update(filled.errors)
    if filled.errors:
        return [], {}
    kwargs, args = dict(filled.value), []
    for name in given.names:
        value = kwargs.pop(name, ABSENT)
        if value is ABSENT:  # left out now, and so are the places after it
            break
        args.append(value)
    return args, kwargs


def _field_of(given: Input, kind: str, name: str) -> str:
    """The field that an argument is typed into."""
    if given.form is None:
        return kind
    names = {field.path[0]: field.name for field in given.form.fields}
    return names.get(name, given.form.fields[-1].name)


def _holds_mask(value: Any) -> bool:
    if isinstance(value, str):
        return MASK in value
    if isinstance(value, list):
        return any(map(_holds_mask, value))
    return isinstance(value, dict) and any(map(_holds_mask, value.values()))
