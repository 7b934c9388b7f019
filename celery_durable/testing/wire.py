"""The broker and the worker of a test: what is sent is kept here, and executed when its time comes.

Each app that takes part is given this wire in the place of its broker and its result backend. Messages are executed by
Celery's own tracer, as a worker does it: callbacks, chains and chords go on, and a durable task is executed by the same
code as in a worker.
"""

from __future__ import annotations

import heapq
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from celery import Celery, Task, uuid
from celery.app import trace
from celery.app.trace import ExceptionInfo, build_tracer
from celery.backends.cache import CacheBackend
from celery.result import AsyncResult
from kombu.utils.functional import LRUCache

from ..core.duration import SECOND, moment
from ..errors import CallFailed
from ..worker.reporting import end_call, error_text
from ..worker.revoking import DurableControl
from ..worker.running import RunParked
from .clock import Clock
from .effects import SENT

__all__ = ["Message", "Wire"]

HOSTNAME = "durable-env"
_OF_OPTIONS = ("root_id", "parent_id", "group_index", "chord", "chain", "shadow")


@dataclass(order=True)
class Message:
    """What was sent."""

    due_at: int
    number: int
    app: Celery = field(compare=False)
    name: str = field(compare=False)
    id: str = field(compare=False)
    args: tuple[Any, ...] = field(compare=False)
    kwargs: dict[str, Any] = field(compare=False)
    options: dict[str, Any] = field(compare=False)


class Wire:
    """Messages on their way."""

    def __init__(self, clock: Clock, taken: Callable[[Message], bool]) -> None:
        self._clock = clock
        self._taken = taken
        """Somebody else sees to this message."""
        self._messages: list[Message] = []
        self._revoked: set[str] = set()
        self._numbers = itertools.count()
        self._apps: list[Celery] = []
        self._tracers: dict[tuple[int, str], Any] = {}

    @property
    def next_due(self) -> int | None:
        """When the next message is to be executed."""
        return self._messages[0].due_at if self._messages else None

    @contextmanager
    def instead_of_broker(self, app: Celery) -> Iterator[None]:
        """Let an app send its messages here."""
        backend = CacheBackend(app=app, backend="memory")
        backend.client.cache = LRUCache(limit=100_000)  # of this environment, and not of the process
        control = _Control(app)
        control.revoked = self._revoked
        always_eager = app.conf.task_always_eager
        with ExitStack() as stack:
            for name, value in (
                ("send_task", self._sender(app)),
                ("producer_or_acquire", lambda producer=None: nullcontext(producer)),
                ("_get_backend", lambda: backend),
                ("control", control),
            ):
                stack.enter_context(patch.object(app, name, value))
            app.conf.task_always_eager = False
            _forget_backend(app)
            self._apps.append(app)
            try:
                yield
            finally:
                self._apps.remove(app)
                app.conf.task_always_eager = always_eager
                _forget_backend(app)

    def _sender(self, app: Celery) -> Callable[..., AsyncResult[Any]]:
        def send_task(name: str, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult[Any]:
            sys.audit(SENT, name)
            task_id = options.pop("task_id", None) or uuid()
            parent = app.current_worker_task
            if parent is not None and not parent.request.called_directly:
                options.setdefault("root_id", parent.request.root_id or parent.request.id)
                options.setdefault("parent_id", parent.request.id)
            due_at = self._clock.now + self._delay(options)
            self.put(app, name, args or (), kwargs or {}, due_at, task_id, options)
            return app.AsyncResult(task_id)

        return send_task

    def put(
        self,
        app: Celery,
        name: str,
        args: Any,
        kwargs: Any,
        due_at: int,
        task_id: str = "",
        options: dict[str, Any] | None = None,
    ) -> None:
        """Keep a message until it is due."""
        given = tuple(args), dict(kwargs)
        heapq.heappush(self._messages, Message(due_at, next(self._numbers), app, name, task_id, *given, options or {}))

    def _delay(self, options: dict[str, Any]) -> int:
        countdown, eta = options.get("countdown"), options.get("eta")
        if countdown is not None:
            return max(0, int(countdown * SECOND))
        return 0 if eta is None else max(0, int(moment(eta)) - self._clock.now)

    def execute_due(self) -> None:
        """Execute what is due."""
        while self._messages and self._messages[0].due_at <= self._clock.now:
            self._execute(heapq.heappop(self._messages))

    def _execute(self, message: Message) -> None:
        if message.id in self._revoked or self._taken(message):
            return
        name = message.name
        # An event may wake a run of another app.
        app = next((app for app in (message.app, *self._apps) if name in app.tasks), message.app)
        task = app.tasks.get(name)
        if task is None:
            error = CallFailed(
                f"the task {name!r} is not registered in this process, so the test can't execute it: import its "
                f"module, or let env.mock({name!r}, returns=...) stand in for it"
            )
            end_call(app, message.id, error=error_text(app, error))
            return
        key = (id(app), name)
        if key not in self._tracers:
            self._tracers[key] = build_tracer(name, task, hostname=HOSTNAME, app=app)
        with patch.object(trace, "ExceptionInfo", _Info):
            self._tracers[key](message.id, message.args, message.kwargs, _request(message))

    def execute_as(self, message: Message, function: Callable[..., Any]) -> None:
        """Execute this in the place of a task: its result is kept, and callbacks, chains and chords go on."""
        app, name = message.app, message.name
        ignored = getattr(app.tasks.get(name), "ignore_result", False)
        task: Any = type("StandIn", (Task,), {"name": name, "run": staticmethod(function), "ignore_result": ignored})
        task.bind(app)
        tracer = build_tracer(name, task(), hostname=HOSTNAME, app=app)
        tracer(message.id, message.args, message.kwargs, _request(message))


class _Info(ExceptionInfo):  # type: ignore[misc]
    """Celery copies the whole stack of a task's exception. Of one by which a run is parked nobody reads it."""

    def __init__(self, exc_info: Any = None, internal: bool = False) -> None:
        error = sys.exc_info()[1]
        if exc_info is not None or not isinstance(error, RunParked):
            super().__init__(exc_info, internal)
            return
        self.type, self.exception, self.tb = type(error), error, None
        self.traceback, self.internal = "", internal


def _request(message: Message) -> dict[str, Any]:
    """A message's headers as a worker gets them."""
    options = message.options
    headers = dict(options.get("headers") or {})
    of_options = {name: options.get(name) for name in _OF_OPTIONS}
    return {
        **headers,
        **of_options,
        "id": message.id,
        "task": message.name,
        "headers": headers,
        "group": options.get("group_id"),
        "callbacks": _listed(options.get("link")),
        "errbacks": _listed(options.get("link_error")),
        "retries": options.get("retries") or 0,
        "ignore_result": options.get("ignore_result"),
        "hostname": HOSTNAME,
        "delivery_info": {"exchange": "", "routing_key": options.get("queue") or "celery", "redelivered": False},
        "stamped_headers": options.get("stamped_headers"),
        "stamps": {name: headers.get(name) for name in options.get("stamped_headers") or ()},
        "is_eager": False,
    }


def _listed(links: Any) -> list[Any] | None:
    if links is None:
        return None
    return list(links) if isinstance(links, (list, tuple)) else [links]


def _forget_backend(app: Celery) -> None:
    """Have the app look for its backend again."""
    app._backend_cache = None
    vars(app._local).pop("backend", None)


class _Control(DurableControl):
    """What is asked of workers."""

    revoked: set[str]

    def broadcast(self, command: str, arguments: Any = None, **_: Any) -> None:
        """Of all that workers do when they are told, this is what matters here."""
        if command == "revoke":
            ids = (arguments or {})["task_id"]
            self.revoked.update([ids] if isinstance(ids, str) else ids)
