"""A run's message: how it is kept in the database, and how it is sent again.

A run's messages all have its id. What is kept at the start is what the *caller* asked of Celery (queue,
priority, links, chain, chord, group, time limits, headers, stamps), and each later message is made from
that in the same way as the first. What a broker says of a delivered message is not used for that: the
routing key of a topic exchange over Redis is a pattern, and a delayed message names a delay exchange.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from celery import Celery, Task
from celery.app.task import Task as PlainTask
from celery.utils.time import maybe_iso8601
from kombu import Exchange
from kombu.exceptions import ContentDisallowed
from kombu.serialization import dumps, loads, registry

from ..core.codec import decode_arguments, event_class, read_json
from ..core.duration import SECOND
from ..errors import DamagedRecord
from .carrying import attached, collected
from .runtime import runtime_of
from .schedules import SCHEDULE_HEADER

__all__ = [
    "PASS_HEADER",
    "from_request",
    "header_of",
    "ignores_result",
    "keep",
    "message_form",
    "outside_any_request",
    "queue_of",
    "send",
    "without_callbacks",
]

logger = logging.getLogger("celery_durable")

PASS_HEADER = "durable_pass"
"""The header that marks a durable run's message: the number of passes that there were before it."""

# What belongs to one publishing, not to the task that is published.
_MOMENTARY = frozenset(
    {
        "add_to_parent",
        "connection",
        "countdown",
        "declare",
        "eta",
        "producer",
        "publisher",
        "result_cls",
        "retries",
        "retry",
        "retry_policy",
        "router",
        "session",
        "task_id",
        "task_type",
    }
)

# What ties a run to whoever has started it.
_OF_CALLER = frozenset(
    {
        "chain",
        "chord",
        "expires",
        "group_id",
        "group_index",
        "link",
        "link_error",
        "parent_id",
        "replaced_task_nesting",
        "root_id",
    }
)

# What a task, or else its app, says of its messages. They are asked when one is sent, and this is for a sender that
# does not know them, such as a worker of another app in the same database.
_PLACES = ("queue", "exchange", "routing_key")
_OF_TASK = (*_PLACES, "priority", "time_limit", "soft_time_limit")


def keep(app: Celery, task: PlainTask | None, options: dict[str, Any]) -> str:
    """What has to be kept of the options of ``apply_async`` to send the message again at any time.

    ``task`` is ``None`` where this process does not know it.
    """
    kept = {name: value for name, value in options.items() if name not in _MOMENTARY and value is not None}
    if SCHEDULE_HEADER in (kept.get("headers") or {}):  # of this start: a task started from this run has its own
        kept["headers"] = {name: value for name, value in kept["headers"].items() if name != SCHEDULE_HEADER}
    kept |= _routed(kept)
    of_task = {name: value for name in _OF_TASK if (value := getattr(task, name, None)) is not None}
    if task is not None and not any((kept | of_task).get(place) for place in _PLACES):
        of_task["queue"] = app.amqp.router.route({}, task.name).get("queue")
    if of_task:
        kept["of_task"] = of_task | _routed(of_task)
    if kept.get("expires") is not None:
        kept["expires"] = _absolute(app, kept["expires"])
    parent = app.current_worker_task
    if parent:
        kept.setdefault("root_id", parent.request.root_id or parent.request.id)
        kept.setdefault("parent_id", parent.request.id)
    kept = {name: value for name, value in kept.items() if value is not None}
    serializer = kept.get("serializer") or getattr(task, "serializer", None) or app.conf.task_serializer
    return _written(kept, serializer)


def _written(kept: dict[str, Any], serializer: str) -> str:
    content_type, encoding, body = dumps(_listed(kept), serializer)
    binary = isinstance(body, bytes) and encoding == "binary"
    if isinstance(body, bytes):
        body = base64.b64encode(body).decode() if binary else body.decode(encoding or "utf-8")
    record: dict[str, Any] = {"type": content_type, "encoding": encoding, "body": body, "base64": binary}
    carried = collected()
    return json.dumps(record | {"carried": carried} if carried else record)


def _routed(options: dict[str, Any]) -> dict[str, Any]:
    """A queue by its name, and an exchange by all that it takes to declare it where it is not known."""
    queue, exchange = options.get("queue"), options.get("exchange")
    return {
        "queue": getattr(queue, "name", queue),
        "exchange": exchange.as_dict() if isinstance(exchange, Exchange) else exchange,
    }


def from_request(task: PlainTask, request: Any) -> dict[str, Any]:
    """The options of a message that came without a row: sent by name, by a process without this package."""
    options: dict[str, Any] = dict(task.signature_from_request(request).options)
    for name in ("delivery_info", "is_eager", "redelivered", "reply_to", "retries", "task_id"):
        options.pop(name, None)
    if not options.get("headers"):
        options.pop("headers", None)
    return options


def header_of(request: Any, name: str) -> Any:
    """A header of ours that a message came with: Celery has it among the request's headers, or as its attribute."""
    found = (request.headers or {}).get(name)
    return getattr(request, name, None) if found is None else found


def _absolute(app: Celery, expires: Any) -> str:
    """An expiry as a point in time: a relative one counts from the start, not from each message."""
    if isinstance(expires, (int, float)):
        expires = app.now() + timedelta(seconds=expires)
    elif isinstance(expires, str):
        expires = maybe_iso8601(expires)
    return str(expires.isoformat())


def _listed(value: Any) -> Any:
    """Sets as lists: stamps are given as sets, and JSON has none."""
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()} if type(value) is dict else value
    return sorted(value) if isinstance(value, (set, frozenset)) else value


def _read(app: Celery, record: dict[str, Any]) -> dict[str, Any]:
    body: Any = record["body"]
    if record["base64"]:
        body = base64.b64decode(body)
    accept = (
        {record["type"], *app.conf.accept_content} if record["type"] == "application/json" else app.conf.accept_content
    )
    options = dict(loads(body, record["type"], record["encoding"], accept=accept))
    return {str(name): value for name, value in options.items()}


def _options(app: Celery, kept: str, name: str) -> dict[str, Any]:
    record = read_json(kept, dict)
    try:
        options = _read(app, record)
        of_task = dict(options.pop("of_task", {}))
    except ContentDisallowed:
        raise  # nothing is wrong with it: this app does not accept it
    except Exception as error:  # whatever a serializer says of a text that it has not written
        raise DamagedRecord(f"what its message was sent with can't be read ({error}): {kept!r:.80}") from error
    return options if name in app.tasks else of_task | options


def without_callbacks(app: Celery, kept: str) -> str:
    """What was kept of a message, for a run that is started anew: nobody waits for that one's result."""
    record = json.loads(kept)
    options = {name: value for name, value in _read(app, record).items() if name not in _OF_CALLER}
    return _written(options, registry.type_to_name[record["type"]])


def _exchange(app: Celery, kept: Any) -> Any:
    """The exchange that was kept. Some brokers know its type only from whoever declares it."""
    if isinstance(kept, dict):
        return Exchange(**kept)
    for queue in app.amqp.queues.values():
        if queue.exchange is not None and queue.exchange.name == kept:
            return queue.exchange
    return kept


def message_form(value: Any) -> Any:
    """A decoded value in the types that Celery's own serializers take."""
    if isinstance(value, event_class()):
        return message_form({name: getattr(value, name) for name in type(value).model_fields})
    if isinstance(value, (set, frozenset)):
        return [message_form(item) for item in value]
    if isinstance(value, list):
        return [message_form(item) for item in value]
    if isinstance(value, tuple):
        return tuple(message_form(item) for item in value)
    if isinstance(value, dict):
        return {key: message_form(item) for key, item in value.items()}
    return value


def send(
    app: Celery,
    name: str,
    run_id: str,
    *,
    arguments: str,
    kept: str,
    passes: int,
    retries: int = 0,
    delay: int = 0,
    producer: Any = None,
    ordinary: bool = False,
) -> None:
    """Send a run's message: the only way in which a message after the first one is sent.

    ``ordinary``: it is one of an ordinary task that a run calls.
    """
    options = _options(app, kept, name)
    args, kwargs = message_form(decode_arguments(arguments))
    if passes:
        options["expires"] = None  # the caller's, or the task's, was for the start, and that has been
    if not ordinary:
        options["headers"] = {**(options.get("headers") or {}), PASS_HEADER: passes}
        delay -= runtime_of(app).ahead
    options |= {"task_id": run_id, "add_to_parent": False, "retries": retries}
    if options.get("exchange"):
        options["exchange"] = _exchange(app, options["exchange"])
        if isinstance(options["exchange"], Exchange):
            options["declare"] = [options["exchange"]]
    if delay > 0:
        options["countdown"] = delay / SECOND
    if producer is not None:
        options["producer"] = producer
    with attached(kept), outside_any_request(app):
        task = app.tasks.get(name)
        if task is None:
            app.send_task(name, args, kwargs, **options)
        else:
            # Not the task's own apply_async: an override may refuse an id that it holds a lock for.
            PlainTask.apply_async(task, args, kwargs, **options)


def queue_of(app: Celery, name: str, kept: str) -> str | None:
    """The queue that a run's messages go to, if it is one queue. Raises ``DamagedRecord``."""
    options = _options(app, kept, name)
    if options.get("exchange") and not options.get("queue"):
        return None  # whichever queues are bound to it
    route = app.amqp.router.route(dict(options), name, (), {}, app.tasks.get(name))
    queue = route.get("queue")
    name_of: str | None = getattr(queue, "name", queue)
    return name_of


def ignores_result(app: Celery, name: str, kept: str) -> bool:
    """Whether the caller, or else the task, wants no result to be stored."""
    try:
        asked = _options(app, kept, name).get("ignore_result")
    except (DamagedRecord, ContentDisallowed):  # nobody knows here
        asked = None
    return bool(getattr(app.tasks.get(name), "ignore_result", False) if asked is None else asked)


@contextmanager
def outside_any_request(app: Celery) -> Iterator[None]:
    """Celery makes the task that publishes the parent of what it publishes; a run is not its own parent."""
    current: Task | None = app.current_worker_task
    if current is None:
        yield
        return
    request = current.request
    request.called_directly = True
    try:
        yield
    finally:
        request.called_directly = False
