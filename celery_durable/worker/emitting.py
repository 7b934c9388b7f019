"""``emit``: publish an event from anywhere."""

from __future__ import annotations

import secrets
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery
from sqlalchemy.exc import DBAPIError

from ..core.codec import encode
from ..core.match import check_event_id
from ..engine.current import current_pass, current_step
from ..engine.events import EVENT_GRACE, answer_text, new_event
from ..engine.where import caller
from ..errors import DurableError, add_note
from ..store.records import Deed, NewEvent
from .apps import the_app
from .dispatch import announce, answer_lone, tell
from .install import install
from .runtime import Runtime, runtime_of

if TYPE_CHECKING:
    from ..model import EventReceipt

__all__ = ["emit", "emit_by"]


def emit(
    name: str,
    payload: Any = None,
    *,
    key: str | None = None,
    event_id: str | None = None,
    session: Any = None,
) -> EventReceipt:
    """Publish an event: it wakes the runs that wait for it, and starts those that it triggers.

    A wait takes it by its ``name`` and, where the wait has a ``key``, by an equal one. ``payload`` is plain data, a
    pydantic model or a dataclass; ``NotSerializable`` says what can't be stored, ``PayloadTooLarge`` what is too long.
    ``event_id`` makes a repeated delivery count once; the same id with other content raises
    ``EventConflict``. With a ``session`` (a SQLAlchemy ``Session`` or ``Connection``, or a Django
    connection, on the durable database) the event commits with the caller's transaction, or not at all.
    """
    return emit_by(the_app(), name, payload, key=key, event_id=event_id, session=session)


def emit_by(
    app: Celery,
    name: str,
    payload: Any = None,
    *,
    key: str | None = None,
    event_id: str | None = None,
    session: Any = None,
    deed: Deed | None = None,
) -> EventReceipt:
    """The same for a named app; the deed of who does it is kept with the event."""
    from ..model import EventReceipt

    running = current_pass.get()
    if running is not None and current_step.get() is None:
        raise DurableError(
            f"emit({name!r}) was called in the body of run {running.run_id} ({caller()}), which is executed again at "
            "every replay: use step.emit(id, name, ...), which emits once"
        )
    install(app)
    runtime = runtime_of(app)
    new_id = secrets.token_hex(16) if event_id is None else check_event_id(event_id)
    event = new_event(new_id, name, payload, key, max_payload=runtime.settings.max_payload)
    deed = None if deed is None else replace(deed, details=encode({"event": new_id}))
    if session is None:
        emitted, wake = _record(app, runtime, event, deed)
        if emitted:
            tell(app, new_id, name, key, wake)
    else:
        from .joining import join  # SQLAlchemy's sessions: whoever gives one has imported them

        joined = join(runtime.store, session)
        if joined.is_elsewhere:
            joined.after_commit(partial(emit_by, app, name, payload, key=key, event_id=new_id, deed=deed))
            return EventReceipt(id=new_id)
        emitted = runtime.store.emit_within(joined.execute, event, EVENT_GRACE, deed)
        if emitted:
            joined.after_commit(lambda: announce(app, new_id, name, key))
    return EventReceipt(id=new_id, duplicate=not emitted)


def _record(app: Celery, runtime: Runtime, event: NewEvent, deed: Deed | None) -> tuple[bool, str | None]:
    """Whether it was not recorded before, and the run that its dispatch is to send."""
    try:
        with runtime.store.link() as link:
            emitted = runtime.store.emit_answering(link, event, answer_text, EVENT_GRACE, deed)
            if not emitted.is_new:
                return False, None
            return True, answer_lone(app, link, event.id, event.name, event.key, emitted)
    except DBAPIError as error:
        add_note(
            error,
            f"celery_durable: the event {event.name!r} could not be recorded in durable_database_url "
            f"({runtime.store.engine.url.render_as_string(hide_password=True)}), so nothing was emitted. "
            "Emit it again, under an event_id of its own: if only the answer was lost, it counts once.",
        )
        raise
