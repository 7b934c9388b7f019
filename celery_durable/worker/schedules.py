"""``on_schedule``: a task that is started once per tick of a schedule, through Celery beat.

A beat's entry is an ordinary one, with a header that says which schedule it belongs to. Where the start is
recorded, the run's id is made of the task and the tick: however many beats send it, it is one run.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any

from celery import Celery, signals
from celery.schedules import crontab, schedstate
from celery.schedules import schedule as interval_schedule

from ..core.duration import SECOND, as_datetime, describe, micros, moment
from ..core.ids import MAX_ID
from ..errors import ConfigurationError
from .runtime import plain_app

__all__ = [
    "SCHEDULE_HEADER",
    "EpochSchedule",
    "OnSchedule",
    "beat_entries",
    "check",
    "install_schedules",
    "last_tick",
    "next_tick",
    "on_schedule",
    "schedule_says",
    "schedules_of",
    "tick_id",
]

# A header and no other option: the schedulers that keep their entries in a database keep headers.
SCHEDULE_HEADER = "durable_schedule"
"""The header that says which of its task's schedules a beat has sent: 0 for the first."""

_ACCEPTED = "write a crontab(...), a schedule(...) of celery.schedules, a timedelta, or seconds as a number"
_YEARS_BACK = 8  # 29 February is eight years from the one before it where a century has no leap year
_EVERY_HOUR = frozenset(range(24))
_MINUTE = timedelta(minutes=1)

# What each app's beat has to find, by the entry's key.
_entries: weakref.WeakKeyDictionary[Celery, dict[str, dict[str, Any]]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class OnSchedule:
    """A schedule that starts runs of a task, and what it hands to them. Made by :func:`on_schedule`."""

    schedule: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_schedule(self.schedule)
        if not isinstance(self.args, tuple):
            raise ConfigurationError(f"on_schedule got args={self.args!r}: a tuple or a list is expected")
        if not isinstance(self.kwargs, Mapping):
            raise ConfigurationError(f"on_schedule got kwargs={self.kwargs!r}: a mapping is expected")


def on_schedule(schedule: Any, *, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> OnSchedule:
    """Start a run of the task at each tick of a schedule: for a task's ``triggers``.

    ``schedule`` is a ``crontab`` (in the app's time zone), or an interval as a ``schedule``, a
    ``timedelta`` or seconds. Intervals tick at whole multiples since the epoch, on every host alike.
    """
    return OnSchedule(
        schedule,
        tuple(args) if isinstance(args, list) else args,
        dict(kwargs) if isinstance(kwargs, Mapping) else kwargs or {},
    )


def schedules_of(triggers: Iterable[Any]) -> list[OnSchedule]:
    """The schedules among a task's triggers. The header counts these."""
    return [trigger for trigger in triggers if isinstance(trigger, OnSchedule)]


# ------------------------------------------------------------------ what a schedule may be


def _check_schedule(schedule: Any) -> None:
    if type(schedule) is crontab or type(schedule) is interval_schedule:
        if schedule.nowfun is not None:
            raise ConfigurationError(
                f"on_schedule got {_shown(schedule)} with nowfun, a clock of its own, so that its ticks can't be "
                "told from one host to the next. Leave nowfun out"
            )
        if type(schedule) is crontab:
            return
    elif isinstance(schedule, (crontab, interval_schedule)):
        raise ConfigurationError(
            f"on_schedule got {_shown(schedule)}, of {type(schedule).__module__}.{type(schedule).__qualname__}, "
            f"whose ticks only that class knows: {_ACCEPTED}"
        )
    _interval(schedule)


def _shown(schedule: Any) -> str:
    # Celery's own repr of an interval without a length is an error.
    return f"schedule({schedule.run_every!r})" if isinstance(schedule, interval_schedule) else repr(schedule)


def schedule_says(schedule: Any) -> str:
    """A schedule in words."""
    return _shown(schedule) if type(schedule) is crontab else f"every {describe(_interval(schedule))}"


def _interval(schedule: Any) -> int:
    """An interval in microseconds."""
    every = schedule.run_every if isinstance(schedule, interval_schedule) else schedule
    plain = isinstance(every, (int, float)) and not isinstance(every, bool) and math.isfinite(every)
    if not plain and not isinstance(every, timedelta):
        raise ConfigurationError(f"on_schedule got {_shown(schedule)}, which is no schedule that it knows: {_ACCEPTED}")
    try:
        interval = micros(every)
    except ValueError as error:
        raise ConfigurationError(f"on_schedule got {_shown(schedule)}: {error}; {_ACCEPTED}") from None
    if not interval:
        raise ConfigurationError(f"on_schedule got {_shown(schedule)}, an interval of no length: {_ACCEPTED}")
    return interval


def check(task_name: str, triggers: Iterable[Any]) -> None:
    """Refuse a schedule that never ticks, or whose runs' ids would be too long."""
    now = datetime.now(timezone.utc)
    for number, trigger in enumerate(schedules_of(triggers)):
        run_id = tick_id(task_name, trigger.schedule, number, now, timezone.utc)
        if len(run_id) > MAX_ID:
            raise ConfigurationError(
                f"the task {task_name[:60]}... has a schedule, and the id of a scheduled run, such as {run_id!r}, "
                f"would have {len(run_id)} characters; {MAX_ID} are the most. Give the task a shorter name"
            )


# ---------------------------------------------------------------------------------- ticks


def tick_id(task_name: str, schedule: Any, number: int, now: datetime, timezone: tzinfo) -> str:
    """The id of the run that the latest tick starts. ``number`` says which of the task's schedules it is."""
    tick = last_tick(schedule, now, timezone).replace(tzinfo=None)
    short = type(schedule) is not crontab and _interval(schedule) < SECOND
    text = f"{task_name}@{tick.isoformat(timespec='microseconds' if short else 'seconds')}Z"
    return f"{text}#{number}" if number else text


def last_tick(schedule: Any, now: datetime, timezone: tzinfo) -> datetime:
    """The latest tick at or before ``now``, in UTC.

    A crontab of certain hours ticks once a day for each of its times, also when the clocks change: what
    falls into the hour left out ticks at its end, and the hour that comes twice counts the first time. A
    crontab of every hour ticks at each minute that matches on the clock.
    """
    if type(schedule) is crontab:
        return _last_minute(schedule, now, timezone)
    return _floor(now, _interval(schedule))


def next_tick(schedule: Any, after: datetime, timezone: tzinfo) -> datetime:
    """The first tick that comes after a time, in UTC."""
    if type(schedule) is not crontab:
        interval = _interval(schedule)
        return _floor(after, interval) + timedelta(microseconds=interval)
    step = _MINUTE
    while (tick := last_tick(schedule, after + step, timezone)) <= after:
        step *= 2
    while (earlier := last_tick(schedule, tick - _MINUTE, timezone)) > after:
        tick = earlier
    return tick


def _floor(now: datetime, interval: int) -> datetime:
    return as_datetime(moment(now) // interval * interval)


def _last_minute(schedule: Any, now: datetime, zone: tzinfo) -> datetime:
    """Walk back in real time: over days that don't match, then hours, then minutes."""
    every_hour = schedule.hour >= _EVERY_HOUR
    at = _floor(now, 60 * SECOND)
    end = at - timedelta(days=_YEARS_BACK * 366)
    while at > end:
        local = at.astimezone(zone)
        step = _step_back(schedule, local)
        if not step:
            if every_hour or not local.fold:
                return at
            step = 1
        before = (at - step * _MINUTE).astimezone(zone)
        if before.utcoffset() != local.utcoffset():  # never over a change of the clock: it may hold a tick
            step, before = 1, (at - _MINUTE).astimezone(zone)
            if not every_hour and _left_out(schedule, before, local):
                return at
        at -= step * _MINUTE
    raise ConfigurationError(
        f"{schedule!r} has no tick in the {_YEARS_BACK} years before {now.isoformat()}: correct its days and months"
    )


def _step_back(schedule: Any, local: datetime) -> int:
    """How many minutes back the next one is that may match; 0 if this one does."""
    if not (
        local.month in schedule.month_of_year
        and local.day in schedule.day_of_month
        and local.isoweekday() % 7 in schedule.day_of_week
    ):
        return local.hour * 60 + local.minute + 1
    if local.hour not in schedule.hour:
        return local.minute + 1
    return 0 if local.minute in schedule.minute else 1


def _left_out(schedule: Any, before: datetime, after: datetime) -> bool:
    """Whether the clock, set forward between these two minutes, left out one that matches."""
    minute, end = before.replace(tzinfo=None) + _MINUTE, after.replace(tzinfo=None)
    while minute < end:
        if not _step_back(schedule, minute):
            return True
        minute += _MINUTE
    return False


# ----------------------------------------------------------------------------------- beat


class EpochSchedule(interval_schedule):
    """An interval that is due at whole multiples since the epoch.

    Celery's own counts from the start of the beat and drifts a little each time, so it would leave out a
    tick now and then, and a long one would begin anew with each restart.
    """

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        interval = _interval(self)
        last = moment(self.maybe_make_aware(last_run_at))
        upcoming = (last // interval + 1) * interval
        return timedelta(microseconds=upcoming - moment(self.maybe_make_aware(self.now())))

    def is_due(self, last_run_at: datetime) -> Any:
        rest = self.remaining_estimate(last_run_at).total_seconds()
        if rest > 0:
            return schedstate(is_due=False, next=rest)
        return schedstate(is_due=True, next=self.remaining_estimate(self.now()).total_seconds())


def beat_entries(task_name: str, triggers: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """What ``beat_schedule`` has for a task."""
    return {
        f"{task_name} [{number}]": {
            "task": task_name,
            "schedule": _beat_schedule(trigger.schedule),
            "args": trigger.args,
            "kwargs": dict(trigger.kwargs),
            "options": {"headers": {SCHEDULE_HEADER: number}},
        }
        for number, trigger in enumerate(schedules_of(triggers))
    }


def _beat_schedule(schedule: Any) -> Any:
    # A copy: a beat gives the object its app, and a shared task has more than one app.
    if type(schedule) is crontab:
        return copy.copy(schedule)
    return EpochSchedule(timedelta(microseconds=_interval(schedule)))


def install_schedules(app: Any, task: Any) -> None:
    """Let the app's beat find the schedules of a task. An entry of the user's with the same key is kept."""
    triggers = tuple(getattr(task, "triggers", None) or ())
    if not schedules_of(triggers):
        return
    check(task.name, triggers)
    app = plain_app(app)
    ours = _entries.setdefault(app, {})
    for key, entry in beat_entries(task.name, triggers).items():
        ours.setdefault(key, entry)
    # Each time that the configuration is loaded, if that is still to come or comes again.
    app.on_after_configure.connect(_on_after_configure)
    signals.beat_init.connect(_on_beat_init, weak=False, dispatch_uid="celery_durable.schedules.beat_init")
    if app.configured:
        _add(app, app.conf)


def _add(app: Any, conf: Any) -> dict[str, dict[str, Any]]:
    """Add what is missing, and say what it was."""
    planned = conf.get("beat_schedule")
    missing = {key: entry for key, entry in _entries.get(app, {}).items() if key not in (planned or {})}
    if not missing:
        return missing
    if isinstance(planned, MutableMapping):
        # In place, as Celery's add_periodic_task does: in a copy, what the user adds to theirs later would be lost.
        planned.update(missing)
    else:
        conf["beat_schedule"] = {**(planned or {}), **missing}
    return missing


def _on_after_configure(sender: Any = None, source: Any = None, **_: Any) -> None:
    _add(sender, source)


def _on_beat_init(sender: Any = None, **_: Any) -> None:
    """A beat begins. What it lacks was lost to a ``beat_schedule`` that was assigned after the task was bound."""
    missing = _add(sender.app, sender.app.conf)
    if missing:
        sender.scheduler.update_from_dict(missing)
