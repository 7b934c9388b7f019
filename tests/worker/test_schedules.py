"""Schedules: what may be declared, what a beat is told, and how it finds it."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.beat import Scheduler, Service
from celery.schedules import BaseSchedule, crontab, schedule
from celery.signals import beat_init

from celery_durable import ConfigurationError
from celery_durable.worker.schedules import (
    SCHEDULE_HEADER,
    EpochSchedule,
    OnSchedule,
    beat_entries,
    install_schedules,
    on_schedule,
    schedules_of,
)

UTC = timezone.utc

# --------------------------------------------------------------------------- declaration


class Daily(crontab):
    pass


class Sunset(BaseSchedule):
    """As Celery's solar, which needs another package."""


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("5m", "no schedule that it knows"),
        (None, "no schedule that it knows"),
        (True, "no schedule that it knows"),
        (float("nan"), "no schedule that it knows"),
        (float("inf"), "no schedule that it knows"),
        (0, "of no length"),
        (timedelta(0), "of no length"),
        (1e-9, "of no length"),
        (schedule(0), "of no length"),
        (-1, "can't be negative"),
        (timedelta(seconds=-1), "can't be negative"),
        (schedule(-5), "can't be negative"),
        (timedelta(days=365 * 200), "longer than 100 years"),
        (schedule(), "no schedule that it knows"),
        (Daily(), "only that class knows"),
        (Sunset(), "no schedule that it knows"),
        (datetime(2026, 5, 13, tzinfo=UTC), "no schedule that it knows"),
    ],
)
def test_what_is_no_schedule_is_refused(wrong: Any, says: str) -> None:
    for declare in (on_schedule, OnSchedule):
        with pytest.raises(ConfigurationError, match=rf"(?s){says}.*write a crontab\(...\)"):
            declare(wrong)


def test_a_clock_of_its_own_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="nowfun"):
        on_schedule(crontab(nowfun=datetime.now))


def test_arguments_are_checked() -> None:
    made = on_schedule(60, args=[1, 2], kwargs={"plan": "pro"})
    assert (made.args, made.kwargs) == ((1, 2), {"plan": "pro"})
    with pytest.raises(ConfigurationError, match="args='abc'"):
        on_schedule(60, args="abc")
    with pytest.raises(ConfigurationError, match="kwargs=5"):
        on_schedule(60, kwargs=5)  # type: ignore[arg-type]


def test_what_a_beat_is_told() -> None:
    nightly = crontab(minute=0, hour=4)
    other = object()  # a trigger of another kind, which the numbers leave out
    triggers = [on_schedule(30), other, on_schedule(nightly, args=("a",), kwargs={"b": 1})]
    assert beat_entries("pkg.report", triggers) == {
        "pkg.report [0]": {
            "task": "pkg.report",
            "schedule": schedule(30),
            "args": (),
            "kwargs": {},
            "options": {"headers": {"durable_schedule": 0}},
        },
        "pkg.report [1]": {
            "task": "pkg.report",
            "schedule": nightly,
            "args": ("a",),
            "kwargs": {"b": 1},
            "options": {"headers": {SCHEDULE_HEADER: 1}},
        },
    }
    assert [one.schedule for one in schedules_of(triggers)] == [30, nightly]


def test_a_beat_sends_an_interval_at_its_ticks() -> None:
    clock = [datetime(2026, 5, 13, 12, 0, 7, 300_000, tzinfo=UTC)]
    every_ten = EpochSchedule(timedelta(seconds=10), nowfun=lambda: clock[0])
    started = clock[0]
    assert every_ten.is_due(started) == (False, 2.7)
    clock[0] = datetime(2026, 5, 13, 12, 0, 10, 20_000, tzinfo=UTC)
    assert every_ten.is_due(started) == (True, 9.98)
    # It was held up: it sends once for what it has missed, and is in time again.
    sent, clock[0] = clock[0], datetime(2026, 5, 13, 12, 0, 45, tzinfo=UTC)
    assert every_ten.is_due(sent) == (True, 5)
    assert every_ten.is_due(clock[0]) == (False, 5)


def test_a_beat_keeps_an_interval_in_its_file() -> None:
    app = Celery("file", set_as_current=False)
    app.conf.beat_schedule = beat_entries("some.task", [on_schedule(10), on_schedule(crontab(minute=5), args=[1])])
    scheduler = Scheduler(app=app)
    kept = pickle.loads(pickle.dumps(scheduler.schedule))
    assert kept == scheduler.schedule
    assert type(kept["some.task [0]"].schedule) is EpochSchedule
    assert kept["some.task [0]"].schedule.run_every == timedelta(seconds=10)


# ------------------------------------------------------------------------------- install


TASK = SimpleNamespace(name="pkg.report", triggers=[on_schedule(30), on_schedule(crontab(minute=0), args=(1,))])
KEYS = {"pkg.report [0]", "pkg.report [1]"}
OWN = {"task": "pkg.own", "schedule": 5.0}


@pytest.fixture
def bare() -> Iterator[Celery]:
    app = Celery("bare", set_as_current=False)
    yield app
    app.close()


def test_an_app_that_is_not_configured_stays_so(bare: Celery) -> None:
    install_schedules(bare, TASK)
    assert not bare.configured
    bare.conf.timezone = "Europe/Berlin"  # taken as what comes before the configuration
    assert not bare.configured
    assert set(bare.conf.beat_schedule) == KEYS
    assert bare.conf.timezone == "Europe/Berlin"


def test_an_app_that_is_configured(bare: Celery) -> None:
    assert bare.conf.beat_schedule == {}
    install_schedules(bare, TASK)
    assert set(bare.conf.beat_schedule) == KEYS
    assert Celery("another", set_as_current=False).conf.beat_schedule == {}


@pytest.mark.parametrize("configured", [False, True])
def test_twice_is_once(bare: Celery, configured: bool) -> None:
    if configured:
        assert bare.conf.timezone is None
    install_schedules(bare, TASK)
    install_schedules(bare, TASK)
    first = dict(bare.conf.beat_schedule)
    install_schedules(bare, TASK)
    assert bare.conf.beat_schedule == first
    assert set(first) == KEYS


@pytest.mark.parametrize("install_first", [False, True])
@pytest.mark.parametrize("configured", [False, True])
def test_under_djangos_namespace(bare: Celery, install_first: bool, configured: bool) -> None:
    settings = SimpleNamespace(CELERY_BEAT_SCHEDULE={"own": OWN}, CELERY_TIMEZONE="Europe/Berlin")
    if install_first:
        install_schedules(bare, TASK)
    bare.config_from_object(settings, namespace="CELERY")
    if configured:
        assert bare.conf.timezone == "Europe/Berlin"
    install_schedules(bare, TASK)
    assert set(bare.conf.beat_schedule) == KEYS | {"own"}
    assert bare.conf.beat_schedule["own"] == OWN
    assert bare.conf.timezone == "Europe/Berlin"


def test_a_configuration_that_is_loaded_again(bare: Celery) -> None:
    install_schedules(bare, TASK)
    assert set(bare.conf.beat_schedule) == KEYS
    bare.config_from_object({"beat_schedule": {"own": OWN}}, force=True)
    assert set(bare.conf.beat_schedule) == KEYS | {"own"}


def test_the_users_own_entries_are_kept(bare: Celery) -> None:
    bare.conf.beat_schedule = {"own": OWN, "pkg.report [0]": {"task": "pkg.report", "schedule": 7.0}}
    install_schedules(bare, TASK)
    bare.add_periodic_task(9.0, bare.signature("pkg.added"), name="added")
    found = bare.conf.beat_schedule
    assert set(found) == KEYS | {"own", "added"}
    assert found["own"] == OWN
    assert found["pkg.report [0]"] == {"task": "pkg.report", "schedule": 7.0}


@pytest.mark.parametrize("nothing", [None, ()])
def test_a_beat_schedule_that_is_no_dict(bare: Celery, nothing: Any) -> None:
    bare.conf.beat_schedule = nothing
    install_schedules(bare, TASK)
    assert set(bare.conf.beat_schedule) == KEYS


def test_entries_that_the_user_adds_later_to_their_own_dict(bare: Celery) -> None:
    own: dict[str, Any] = {}
    bare.conf.beat_schedule = own
    install_schedules(bare, TASK)
    assert set(bare.conf.beat_schedule) == KEYS
    own["own"] = OWN
    assert set(bare.conf.beat_schedule) == KEYS | {"own"}


def test_a_schedule_assigned_after_the_install_loses_nothing_once_a_beat_begins(bare: Celery) -> None:
    install_schedules(bare, TASK)
    assert set(bare.conf.beat_schedule) == KEYS
    bare.conf.beat_schedule = {"own": OWN}
    service = Service(app=bare, scheduler_cls="celery.beat.Scheduler")
    assert set(service.scheduler.schedule) == {"own"}
    beat_init.send(sender=service)
    assert set(service.scheduler.schedule) == KEYS | {"own"}
    assert set(bare.conf.beat_schedule) == KEYS | {"own"}
    assert service.scheduler.schedule["pkg.report [0]"].options == {"headers": {SCHEDULE_HEADER: 0}}


def test_a_task_without_schedules_leaves_the_app_alone(bare: Celery) -> None:
    for triggers in ((), None, [object()]):
        install_schedules(bare, SimpleNamespace(name="plain", triggers=triggers))
    install_schedules(bare, SimpleNamespace(name="plain"))
    assert bare.conf.beat_schedule == {}


def test_a_wrong_task_is_refused_at_once(bare: Celery) -> None:
    with pytest.raises(ConfigurationError, match="shorter name"):
        install_schedules(bare, SimpleNamespace(name="t" * 250, triggers=[on_schedule(60)]))
    assert bare.conf.beat_schedule == {}
