"""``Durable``: the client of one Celery app."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from celery import uuid

from ..client import Client
from ..client.deeds import deed_by
from ..core.codec import encode
from ..engine.events import new_event
from ..model import Check, EventReceipt, Run, TaskInfo
from ..store.records import Aftermath, NewEvent
from .checking import check_runs
from .dispatch import announce
from .eager import execute_eagerly
from .emitting import emit_by
from .install import install
from .message import without_callbacks
from .registered import info_of, task_named, tasks_of, triggered_by
from .runtime import runtime_of
from .sending import follow

__all__ = ["Durable"]


class Durable(Client):
    """Reads and operates the durable runs of a Celery app: ``Durable(app).get(run_id)``.

    What acts on a run can be done twice, and raises ``RunNotFound``, or ``WrongStatus`` with the status that it found.
    ``by`` is who does it, the user of this process if nothing is said, and ``reason`` why: both are kept in the audit
    log.
    """

    def __init__(self, app: Any) -> None:
        install(app)
        # Asked for each time: a client may be made before its app is configured, and a test has a store of its own.
        super().__init__(lambda: runtime_of(app).store, lambda value: runtime_of(app).settings.redaction.value(value))
        self.app = app

    def _follow(self, aftermath: Aftermath) -> None:
        if self.app.conf.task_always_eager:
            execute_eagerly(self.app, aftermath)
        else:
            follow(self.app, aftermath)

    def _arguments(self, task: str, args: list[Any], kwargs: dict[str, Any]) -> str:
        known = self.app.tasks.get(task)
        if known is None:
            return encode([args, kwargs], f"an argument of {task}")
        if known.typing:
            known.__header__(*args, **kwargs)
        text: str = known.write_arguments(runtime_of(self.app), tuple(args), kwargs)
        return text

    def _message_of_copy(self, message: str) -> str:
        return without_callbacks(self.app, message)

    def _new_event(self, event_id: str, name: str, payload: Any, key: str | None) -> NewEvent:
        return new_event(event_id, name, payload, key, max_payload=runtime_of(self.app).settings.max_payload)

    def _announce(self, event: NewEvent) -> None:
        announce(self.app, event.id, event.name, event.key)

    @staticmethod
    def _new_id() -> str:
        return str(uuid())

    def end(self, run_id: str, reason: str) -> None:
        """Cancel a run by force whose process is about to be ended. Its message is left to the sweeper: Celery looks
        for the process by the last message that a worker has got."""
        with self._store.link() as link:
            aftermath = self._store.cancel(link, run_id, reason, force=True, deed=deed_by("cancel", reason, None))
        if aftermath is not None:
            self._follow(replace(aftermath, wake=tuple(woken for woken in aftermath.wake if woken != run_id)))

    def check(self) -> Check:
        """Replay every run that is under way against the code as it is in this process, without doing or writing
        anything: which of them would break, and why. To be called before a deploy."""
        checked, misfits = check_runs(self.app)
        return Check(checked=checked, misfits=tuple(misfits))

    def tasks(self) -> tuple[TaskInfo, ...]:
        """The durable tasks that are registered in this process, by name."""
        return tuple(info_of(self.app, task) for task in tasks_of(self.app))

    def task(self, name: str) -> TaskInfo:
        """One of them. Raises ``TaskNotFound``, which says which there are."""
        return info_of(self.app, task_named(self.app, name))

    def triggered_by(self, event_name: str) -> tuple[str, ...]:
        """The registered tasks of which an event of this name may start runs; ``when=`` of a trigger is for its payload
        to answer."""
        return triggered_by(self.app, event_name)

    def start(
        self,
        task: str,
        *,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        queue: str | None = None,
        countdown: float | None = None,
        reason: str | None = None,
        by: str | None = None,
    ) -> Run:
        """Start a run of a task by its name, as the task's own ``apply_async`` does: with a ``task_id`` it can be done
        twice. Raises ``TaskNotFound``; arguments that don't fit are refused as in every start."""
        options: dict[str, Any] = {"queue": queue, "countdown": countdown}
        result = task_named(self.app, task).apply_async(
            tuple(args),
            dict(kwargs or {}),
            task_id=task_id,
            durable_deed=deed_by("start", reason, by),
            **{name: value for name, value in options.items() if value is not None},
        )
        return self.get(str(result.id))

    def emit(
        self,
        name: str,
        payload: Any = None,
        *,
        key: str | None = None,
        event_id: str | None = None,
        session: Any = None,
        reason: str | None = None,
        by: str | None = None,
    ) -> EventReceipt:
        """As :func:`celery_durable.emit`, for this app. Who does it is kept in the audit log where ``by`` or ``reason``
        is given: most events are emitted by programs."""
        deed = None if by is None and reason is None else deed_by("emit", reason, by)
        return emit_by(self.app, name, payload, key=key, event_id=event_id, session=session, deed=deed)
