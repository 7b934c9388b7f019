"""The event-dispatch task: what an emitted event does.

``emit`` tells of each event by the signal :data:`event_emitted`; its receiver queues this task, and a dispatch that
is lost or dies is queued again by the sweeper. It can be done twice, and by two workers at once: a wait is answered
under its run's lock, and a run that an event starts has an id made from the two.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from celery import Celery, Task
from celery.utils.dispatch import Signal
from sqlalchemy.exc import DBAPIError

from ..core.codec import encode
from ..engine.events import EVENT_GRACE, event_of
from ..engine.passing import GRACE
from ..errors import ConfigurationError, DamagedRecord
from ..store.link import Link
from ..store.records import Due, StoredEvent
from .carrying import can_attach
from .message import header_of, outside_any_request, send
from .runtime import runtime_of
from .sending import Sender
from .triggers import start_triggered

if TYPE_CHECKING:
    from ..store.lone import Emitted

__all__ = [
    "DISPATCH",
    "announce",
    "answer_lone",
    "dispatch",
    "dispatch_queue",
    "event_emitted",
    "queue_dispatch",
    "register_dispatch",
    "tell",
]

logger = logging.getLogger("celery_durable")

DISPATCH = "celery_durable.dispatch"
_BATCH = 200
_SENT_HERE = 1_000
"""How many of the runs that one event wakes are sent by its dispatch. More are left to the sweeper, which sends as many
as the queue has room for."""
_TELL_EVERY = 1.0
"""Seconds after which a dispatch of many batches says that it goes on."""
_LONGEST_PAUSE = 32
_MOST_SENDS = 12
"""How often an event is dispatched again that could not start a run: for an hour, in which a fixed deploy may come."""

_WAKE_HEADER = "durable_wake"
"""The header of a dispatch that names a run which it is to send."""

event_emitted = Signal(name="event_emitted", providing_args={"event_id", "name", "key", "wake"})
"""Sent in the emitting process once an event is recorded; the sender is the app."""


def announce(app: Celery, event_id: str, name: str, key: str | None) -> None:
    """An event is recorded and committed: wake the run that alone waits for it, and tell whoever listens."""
    wake = None
    try:
        with runtime_of(app).store.link() as link:
            wake = answer_lone(app, link, event_id, name, key)
    except Exception as error:
        _leave(event_id, error)
    tell(app, event_id, name, key, wake)


def tell(app: Celery, event_id: str, name: str, key: str | None, wake: str | None = None) -> None:
    """Tell whoever listens of an event. ``wake``: a run that it has woken, and that its dispatch is to send."""
    event_emitted.send(sender=app, event_id=event_id, name=name, key=key, wake=wake)


def answer_lone(
    app: Celery, link: Link, event_id: str, name: str, key: str | None, emitted: Emitted | None = None
) -> str | None:
    """Answer the wait that an event finds alone, and send its run, which goes on a message sooner than by the dispatch.
    That comes as well: it finds nothing to answer then, and does what else the event does.

    The run, if it is the dispatch that has to send it: one with a trace that this process can't carry on.
    """
    store, run = runtime_of(app).store, None
    try:
        if emitted is not None and emitted.has_looked:
            run = emitted.woken
        else:
            wait = store.lone_wait(link, event_id, name, key)
            if wait is not None:
                run = store.answer_lone(link, wait, encode(event_of(wait.event)), EVENT_GRACE)
        if run is not None and not can_attach(run.message):
            return run.fence.run_id
    except Exception as error:
        _leave(event_id, error)
    if run is not None:
        _send(app, run)
    return None


def _send(app: Celery, run: Due) -> None:
    """Send a run that was answered by an emit."""
    try:
        send(
            app,
            run.task,
            run.fence.run_id,
            arguments=run.arguments,
            kept=run.message,
            passes=run.passes,
            retries=run.retries,
        )
    except Exception as error:
        logger.warning(
            "run %s: an event has woken it, and its message could not be sent (%s: %s); a worker sees to it",
            run.fence.run_id,
            type(error).__name__,
            error,
        )


def _send_woken(app: Celery, run_id: str) -> None:
    """Send a run that was answered by an emit, unless somebody has taken it."""
    store = runtime_of(app).store
    with store.link() as link:
        for run in store.to_send(link, [run_id]):
            _send(app, run)


def _leave(event_id: str, error: Exception) -> None:
    logger.info("event %s is left to its dispatch (%s: %s)", event_id, type(error).__name__, error)


def queue_dispatch(
    sender: Any = None, event_id: str = "", countdown: float | None = None, wake: str | None = None, **_: Any
) -> None:
    """The receiver of :data:`event_emitted`."""
    headers = None if wake is None else {_WAKE_HEADER: wake}
    try:
        with outside_any_request(sender):
            sender.tasks[DISPATCH].apply_async(
                (event_id,),
                queue=runtime_of(sender).settings.queue,
                countdown=countdown,
                headers=headers,
                add_to_parent=False,
            )
    except Exception as error:
        logger.warning(
            "event %s is recorded, but its dispatch could not be sent (%s: %s). A worker sends it when the broker is "
            "back",
            event_id,
            type(error).__name__,
            error,
        )


def dispatch_queue(app: Celery) -> str:
    """The queue that dispatches go to."""
    return runtime_of(app).settings.queue or app.conf.task_default_queue


def register_dispatch(app: Celery) -> None:
    """Give an app the task. Not by ``app.tasks``, which would finalize an app that is not complete yet."""

    def run(task: Any, event_id: str) -> None:
        wake = header_of(task.request, _WAKE_HEADER)
        if wake is not None:
            _send_woken(task.app, wake)
        dispatch(task.app, event_id)

    app.task(
        run,
        name=DISPATCH,
        base=Task,  # whatever class the app's own tasks have
        bind=True,
        shared=False,
        ignore_result=True,
        acks_late=True,
        reject_on_worker_lost=True,
        serializer="json",
    )


def dispatch(app: Celery, event_id: str) -> None:
    """Answer the waits for an event and start the runs that it triggers, in batches that are each committed."""
    store = runtime_of(app).store
    with store.link() as link:
        event = store.event(link, event_id)
        if event is None:
            logger.info("event %s is not there: taken back with its transaction, or forgotten", event_id)
            return
        if event.dispatched_at is not None:
            return
        store.close_gates(link, event)
        prospects = store.prospects(link, event)
        waits = prospects.keyed or prospects.keyless
        if waits and prospects.earlier:
            _dispatch_earlier(app, link, event, of_any_key=prospects.keyless)
        _dispatch(app, link, event, waits=waits)


def _dispatch_earlier(app: Celery, link: Link, event: StoredEvent, *, of_any_key: bool) -> None:
    """Events that were emitted before this one come before it, whatever became of their own dispatches."""
    store = runtime_of(app).store
    done: set[str] = set()
    while True:
        earlier = store.earlier_events(link, event, of_any_key=of_any_key, limit=_BATCH)
        if done.issuperset(earlier):
            return
        for event_id in earlier:
            if event_id in done:
                continue
            done.add(event_id)
            try:
                found = store.event(link, event_id)
            except ConfigurationError as error:  # of another key: whatever comes of it, it keeps no other back
                logger.error("event %s can't be read, and those after it come first: %s", event_id, error)
                continue
            if found is not None and found.dispatched_at is None:
                store.close_gates(link, found)
                _dispatch(app, link, found, waits=True)


def _dispatch(app: Celery, link: Link, event: StoredEvent, *, waits: bool) -> None:
    store = runtime_of(app).store
    try:
        event_of(event)
    except DamagedRecord as error:
        logger.error("event %s %r does nothing, as it can't be read: %s", event.id, event.name, error)
        store.dispatched(link, event.id, encode([str(error)]))
        return
    woken = _answer_waits(app, link, event) if waits else 0
    started, errors = start_triggered(app, event)
    if errors and event.sends < _MOST_SENDS:
        store.postponed(link, event.id, encode(errors), GRACE * min(2**event.sends, _LONGEST_PAUSE))
    else:
        store.dispatched(link, event.id, encode(errors) if errors else None)
    logger.info("event %s %r dispatched: it woke %d runs and started %d", event.id, event.name, woken, started)


def _answer_waits(app: Celery, link: Link, event: StoredEvent) -> int:
    store, sender = runtime_of(app).store, Sender(app)
    answer = encode(event_of(event))
    woken, told = 0, time.monotonic()
    for waits in store.waits_for(link, event, _BATCH):
        sent_here = woken < _SENT_HERE
        runs = store.deliver(link, event, answer, waits, EVENT_GRACE if sent_here else 0)
        woken += len(runs)
        try:
            sender.send(link, store.to_send(link, runs) if runs and sent_here else [])
        except DBAPIError:
            raise
        except Exception as error:
            # They are due in the database. The next batch must not wait for the broker to come back.
            logger.warning("%d woken runs could not be sent (%s); a worker sends them later", len(runs), error)
        if time.monotonic() - told > _TELL_EVERY:
            store.dispatching(link, event.id, GRACE)
            told = time.monotonic()
    return woken
