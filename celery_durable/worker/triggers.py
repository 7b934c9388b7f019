"""What starts runs: ``triggers=[on_event(...)]`` on a durable task."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from celery import Celery
from sqlalchemy.exc import DBAPIError

from ..core.ids import derived_id
from ..core.match import check_match, check_pattern, covers, matches
from ..engine.events import event_of
from ..errors import ConfigurationError, StartConflict
from ..store.records import StoredEvent
from .schedules import SCHEDULE_HEADER, OnSchedule, install_schedules, schedules_of, tick_id

if TYPE_CHECKING:
    from ..model import Event
    from .task import DurableTask

__all__ = ["OnEvent", "install_triggers", "on_event", "start_triggered", "tick_of"]

logger = logging.getLogger("celery_durable")


@dataclass(frozen=True)
class OnEvent:
    """Events that start a run: those of a name, with these values in their payload."""

    name: str
    when: Mapping[str, Any] | None = None

    def holds_for(self, event: Event) -> bool:
        return covers(self.name, event.name) and matches(self.when, event.payload)


def on_event(name: str, *, when: Mapping[str, Any] | None = None) -> OnEvent:
    """Start a run for each event of this name, with the event as its argument.

    A trailing ``*`` in the name is a wildcard. ``when`` is a mapping of payload paths to values, such as
    ``{"plan": "pro"}``. One event starts one run of a task, whatever number of its triggers it answers.
    """
    return OnEvent(check_pattern(name), check_match(when))


def checked_triggers(task: str, triggers: Any) -> tuple[OnEvent | OnSchedule, ...]:
    """The triggers of a task as they were declared."""
    if isinstance(triggers, (OnEvent, OnSchedule)) or not isinstance(triggers, Iterable):
        raise ConfigurationError(f"the task {task} has triggers={triggers!r}: a list of on_event(...) is expected")
    found = tuple(triggers)
    for trigger in found:
        if not isinstance(trigger, (OnEvent, OnSchedule)):
            raise ConfigurationError(
                f"the task {task} has the trigger {trigger!r}: on_event(...) or on_schedule(...) is expected"
            )
    return found


def install_triggers(app: Celery, task: Any) -> None:
    """Check a task's triggers, and tell Celery beat of its schedules."""
    task.triggers = checked_triggers(task.name, task.triggers)
    install_schedules(app, task)


def tick_of(task: DurableTask, headers: Mapping[str, Any] | None) -> str | None:
    """The id of the run that a beat starts, or ``None`` for a start that is not one of a beat's."""
    number = (headers or {}).get(SCHEDULE_HEADER)
    if number is None:
        return None
    schedules = schedules_of(task.triggers)
    if not isinstance(number, int) or not 0 <= number < len(schedules):
        raise ConfigurationError(
            f"a beat sent {task.name} for its schedule number {number!r:.100}, and the task has {len(schedules)}: the "
            "schedule was taken out of the code, so delete its entry from the beat's database"
        )
    now = datetime.now(timezone.utc)
    return tick_id(task.name, schedules[number].schedule, number, now, task.app.timezone)


def start_triggered(app: Celery, stored: StoredEvent) -> tuple[int, list[str]]:
    """Start the runs that an event triggers; how many, and what kept others from being started."""
    started, errors = 0, []
    event = event_of(stored)
    for task in _triggered(app, event):
        try:
            task.apply_async((event,), task_id=derived_id(task.name, event.id), durable_event=stored.seq)
            started += 1
        except DBAPIError:
            raise  # the dispatch is done again
        except StartConflict:
            # Started by an earlier dispatch of this event, by code that recorded its argument in another form.
            logger.info("event %s has started a run of %s before", event.id, task.name)
        except Exception as error:
            logger.exception("event %s %r could not start %s", event.id, event.name, task.name)
            errors.append(f"{task.name} could not be started: {type(error).__name__}: {error}")
    return started, errors


def _triggered(app: Celery, event: Event) -> list[DurableTask]:
    return [
        task
        for task in list(app.tasks.values())
        if any(
            isinstance(trigger, OnEvent) and trigger.holds_for(event)
            for trigger in getattr(task, "triggers", None) or ()
        )
    ]
