"""What ``step.call`` may be given, in Celery's words: another durable task, an ordinary one, a canvas, a name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from celery import Celery
from celery.canvas import Signature, _chain, _chord, chunks, group

from ..core.boundary import Boundary, signature_of
from ..core.codec import encode
from ..core.ids import fingerprint
from ..engine.calls import Target
from ..engine.passing import GRACE
from ..errors import PayloadTooLarge
from ..store.records import NewRun
from .delays import delay_of
from .message import keep
from .reporting import report_links
from .runtime import runtime_of

__all__ = ["CANVAS", "plain_canvas", "target_of"]

CANVAS = "celery_durable.canvas"
"""The durable task that does the parts of a canvas, each by a call of its own."""

# What a canvas says for its parts.
_OF_PARTS = ("queue", "exchange", "routing_key", "priority", "headers", "serializer", "time_limit", "soft_time_limit")

# What belongs to one sending of a signature: a call has an id, a parent and callbacks of its own.
_OF_SENDING = ("task_id", "root_id", "parent_id", "reply_to", "group_id", "group_index", "chord", "producer")


def target_of(app: Celery, signature: Any, queue: str | None, eager: bool = False) -> Target:
    """What is to be called."""
    if isinstance(signature, str):
        signature = app.signature(signature)
    if not isinstance(signature, Signature):
        raise TypeError(
            f"step.call was given {signature!r}: a signature is expected, such as task.s(1, 2), a canvas of them, or "
            "the name of a task"
        )
    if isinstance(signature, chunks):
        signature = signature.group()
    if isinstance(signature, (_chain, group, _chord)):
        signature = _canvas(app, signature, queue)
        queue = None
    task = app.tasks.get(signature.task)
    options = {name: value for name, value in signature.options.items() if name not in _OF_SENDING}
    if queue is not None:
        options["queue"] = queue
    if eager:  # time passes at once
        options = {name: value for name, value in options.items() if name not in ("countdown", "eta")}
    args, kwargs = tuple(signature.args or ()), dict(signature.kwargs or {})
    if task is not None and task.typing:
        task.__header__(*args, **kwargs)
    if hasattr(task, "write_arguments"):
        return _durable(app, task, args, kwargs, options)
    return _ordinary(app, signature.task, task, args, kwargs, options)


def _canvas(app: Celery, canvas: Signature, queue: str | None) -> Signature:
    """The task that does a canvas. Of the canvas's options some are those of each part that has none of its own."""
    own = {name: value for name, value in canvas.options.items() if name not in _OF_SENDING}
    of_parts = {name: own.pop(name) for name in _OF_PARTS if name in own}
    if queue is not None:
        of_parts["queue"] = queue
    own.setdefault("queue", runtime_of(app).settings.queue)
    return (
        app.tasks[CANVAS]
        .s(plain_canvas(canvas), plain_canvas(of_parts))
        .set(**{name: value for name, value in own.items() if value is not None})
    )


def _durable(app: Celery, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]) -> Target:
    arguments = task.write_arguments(runtime_of(app), args, kwargs)
    options.setdefault("ignore_result", task.ignore_result)

    def new_run(run_id: str) -> NewRun:
        return _new_run(app, task, task.name, run_id, arguments, options)

    return Target(task.name, _given(task.name, arguments), task.signature_of_run().result, new_run)


def _ordinary(
    app: Celery, name: str, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
) -> Target:
    arguments = encode([list(args), kwargs], f"an argument of {name}")
    limit = runtime_of(app).settings.max_payload
    if len(arguments) > limit:
        raise PayloadTooLarge(
            f"the arguments of {name} take {len(arguments):,} bytes, and durable_max_payload is {limit:,}. Store them "
            "elsewhere and hand over where they are."
        )

    def new_run(run_id: str) -> NewRun:
        return _new_run(app, task, name, run_id, arguments, options | report_links(app, run_id, options), kind="task")

    result = Boundary() if task is None else signature_of(task.run).result
    return Target(name, _given(name, arguments), result, new_run)


def _new_run(
    app: Celery,
    task: Any,
    name: str,
    run_id: str,
    arguments: str,
    options: dict[str, Any],
    kind: str | None = None,
) -> NewRun:
    delay = delay_of(app, options)
    horizon = runtime_of(app).settings.eta_horizon
    return NewRun(
        id=run_id,
        task=name,
        arguments=arguments,
        input_hash=fingerprint(arguments),
        message=keep(app, task, options),
        wake_in=delay or None,
        due_in=max(0, delay - horizon) if delay else GRACE,
        kind=kind,
    )


def _given(name: str, arguments: str) -> str:
    """The step's input: what is called, and with what. The arguments are encoded already."""
    return f'{{"task":{json.dumps(name)},"arguments":{arguments}}}'


def plain_canvas(value: Any) -> Any:
    """A canvas as plain data: signatures are mappings, and their queues may be objects."""
    if isinstance(value, Mapping):
        plain = {key: plain_canvas(item) for key, item in value.items()}
        if isinstance(value, Signature):
            plain["options"] = {key: item for key, item in plain["options"].items() if key not in _OF_SENDING}
        return plain
    if isinstance(value, (list, tuple)):
        return [plain_canvas(item) for item in value]
    if type(value).__module__.startswith("kombu."):
        return value.name
    return value
