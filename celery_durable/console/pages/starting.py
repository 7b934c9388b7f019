"""Starting a run by hand: a form made of what the task's function is annotated with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from werkzeug.wrappers import Response

from ...client.words import counted
from ...core.duration import SECOND, micros
from ...errors import DurableError, StartConflict, TaskNotFound
from ...model import TaskInfo
from ..forms import Form
from ..visit import Visit
from .arguments import json_arguments
from .asking import deed_of, new_id_of

__all__ = ["start"]

_ARGUMENT = re.compile(r"argument '([^']+)'")


def start(visit: Visit, name: str) -> Response:
    """The form, and the start itself."""
    visit.demand("start")
    info = visit.durable.task(name)
    form = None if visit.args.get("as") == "json" else Form(info.parameters)
    if visit.request.method == "GET":
        return _form(visit, info, form, {}, {})
    typed = visit.request.form.to_dict()
    errors: dict[str, str] = {}
    args, kwargs = _arguments(form, typed, errors)
    countdown = _countdown(typed.get("countdown", "").strip(), errors)
    if errors:
        return _form(visit, info, form, typed, errors, 400)
    try:
        run = visit.durable.start(
            name, args=args, kwargs=kwargs, task_id=new_id_of(visit), countdown=countdown, **deed_of(visit)
        )
    except TaskNotFound:
        raise
    except StartConflict as error:
        return _form(visit, info, form, typed, {"task_id": str(error)}, 409)
    except (DurableError, TypeError, ValueError) as error:
        return _form(visit, info, form, typed, _at_field(form, str(error)), 400)
    return visit.redirect("run", run_id=run.id)


def _form(
    visit: Visit,
    info: TaskInfo,
    form: Form | None,
    typed: Mapping[str, str],
    errors: Mapping[str, str],
    status: int = 200,
) -> Response:
    known = {field.name for field in form.every()} if form is not None else {"args", "kwargs"}
    other = errors.get("") or ""
    at_fields = sum(name in known or name in ("task_id", "countdown") for name in errors)
    return visit.render(
        "start.html",
        status,
        live=False,
        info=info,
        form=form,
        texts=typed,
        errors=errors,
        problem=other or (f"{counted(at_fields, 'field')} to look at again." if errors else ""),
        new_id=str(uuid4()),
    )


def _arguments(form: Form | None, typed: Mapping[str, str], errors: dict[str, str]) -> tuple[list[Any], dict[str, Any]]:
    if form is not None:
        filled = form.read(typed)
        errors.update(filled.errors)
        return [], filled.value if not filled.errors else {}
    return json_arguments(typed, errors)


def _countdown(text: str, errors: dict[str, str]) -> float | None:
    if not text:
        return None
    try:
        return micros(float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else text) / SECOND
    except ValueError as error:
        errors["countdown"] = str(error)
        return None


def _at_field(form: Form | None, said: str) -> dict[str, str]:
    """An error at the field of the argument that it is about, where it names one."""
    about = _ARGUMENT.search(said)
    names = {field.path[0]: field.name for field in form.fields} if form is not None and form.fields else {}
    return {names.get(about[1], "") if about else "": said}
