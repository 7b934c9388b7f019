"""Ticks: which is a schedule's latest, over all that calendars and clocks do, and what its run is called."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.schedules import crontab, schedule
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_durable import ConfigurationError
from celery_durable.worker.schedules import check, last_tick, on_schedule, tick_id

UTC = timezone.utc
BERLIN = ZoneInfo("Europe/Berlin")
MINUTE = timedelta(minutes=1)


def at(text: str) -> datetime:
    """A point in time; UTC if it has no offset."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


# ------------------------------------------------------------------------------ crontabs


@pytest.mark.parametrize(
    ("cron", "now", "tick"),
    [
        (crontab(), "2026-05-13 12:34:56.789", "2026-05-13 12:34"),
        (crontab(), "2026-05-13 12:34:00", "2026-05-13 12:34"),
        (crontab(minute="*/15"), "2026-05-13 12:14:59", "2026-05-13 12:00"),
        (crontab(minute=50), "2026-05-13 12:49:59", "2026-05-13 11:50"),
        (crontab(minute=0, hour="9,17"), "2026-05-13 16:59", "2026-05-13 09:00"),
        (crontab(minute=30, hour=4), "2026-05-13 04:30:00", "2026-05-13 04:30"),
        (crontab(minute=30, hour=4), "2026-05-13 04:29:59.999999", "2026-05-12 04:30"),
        (crontab(0, 0, day_of_month=31), "2026-05-30 12:00", "2026-03-31 00:00"),
        (crontab(0, 0, day_of_month="28-31"), "2026-03-01 00:00", "2026-02-28 00:00"),
        (crontab(59, 23, day_of_month=31, month_of_year=12), "2027-01-01 00:00", "2026-12-31 23:59"),
        (crontab(0, 0, day_of_month=29, month_of_year=2), "2026-03-01 00:00", "2024-02-29 00:00"),
        (crontab(0, 0, day_of_month=29, month_of_year=2), "2024-02-29 00:00", "2024-02-29 00:00"),
        (crontab(0, 0, day_of_month=29, month_of_year=2), "2104-02-28 23:59", "2096-02-29 00:00"),
        (crontab(0, 8, day_of_week="mon"), "2026-05-10 12:00", "2026-05-04 08:00"),  # now is a Sunday
        (crontab(0, 8, day_of_week="sun"), "2026-05-10 12:00", "2026-05-10 08:00"),
        (crontab(0, 8, day_of_week=0), "2026-05-09 12:00", "2026-05-03 08:00"),
        (crontab(0, 8, day_of_week="mon", day_of_month="1-7"), "2026-05-31 12:00", "2026-05-04 08:00"),
    ],
)
def test_the_latest_minute_that_matches(cron: Any, now: str, tick: str) -> None:
    assert last_tick(cron, at(now), UTC) == at(tick)


def test_a_crontab_is_in_the_zone_that_it_is_given() -> None:
    nine = crontab(minute=0, hour=9)
    assert last_tick(nine, at("2026-07-01 12:00"), BERLIN) == at("2026-07-01 07:00")
    assert last_tick(nine, at("2026-01-01 12:00"), BERLIN) == at("2026-01-01 08:00")
    assert last_tick(nine, at("2026-07-01 12:00"), ZoneInfo("Asia/Kolkata")) == at("2026-07-01 03:30")
    # The day of the month is the zone's, too.
    first = crontab(minute=30, hour=0, day_of_month=1)
    assert last_tick(first, at("2026-07-01 00:00"), BERLIN) == at("2026-06-30 22:30")


@pytest.mark.parametrize(
    ("cron", "now", "tick"),
    [
        # 02:00 to 03:00 is left out: what is in it ticks at its end, which is 01:00 UTC.
        (crontab(30, 2), "2026-03-29 00:59:59", "2026-03-28 01:30"),
        (crontab(30, 2), "2026-03-29 01:00:00", "2026-03-29 01:00"),
        (crontab(30, 2), "2026-03-29 01:30:00", "2026-03-29 01:00"),
        (crontab(30, 2), "2026-03-29 23:59:00", "2026-03-29 01:00"),
        (crontab(30, 2), "2026-03-30 00:30:00", "2026-03-30 00:30"),
        (crontab(0, 3), "2026-03-29 01:00:00", "2026-03-29 01:00"),
        (crontab(30, 2, day_of_month=29, month_of_year=3), "2026-12-24 00:00", "2026-03-29 01:00"),
        # Of a crontab of every hour nothing is made up for.
        (crontab(minute=30), "2026-03-29 01:29", "2026-03-29 00:30"),
    ],
)
def test_the_hour_that_is_left_out_in_spring(cron: Any, now: str, tick: str) -> None:
    assert last_tick(cron, at(now), BERLIN) == at(tick)


@pytest.mark.parametrize(
    ("cron", "now", "tick"),
    [
        # 02:00 to 03:00 comes twice, from 00:00 and from 01:00 UTC on: it counts once.
        (crontab(30, 2), "2026-10-25 00:29", "2026-10-24 00:30"),
        (crontab(30, 2), "2026-10-25 00:30", "2026-10-25 00:30"),
        (crontab(30, 2), "2026-10-25 01:30", "2026-10-25 00:30"),
        (crontab(30, 2), "2026-10-26 01:29", "2026-10-25 00:30"),
        (crontab("*/20", 2), "2026-10-25 01:30", "2026-10-25 00:40"),
        # With every hour the minutes of both count.
        (crontab("*/20"), "2026-10-25 00:45", "2026-10-25 00:40"),
        (crontab("*/20"), "2026-10-25 01:45", "2026-10-25 01:40"),
    ],
)
def test_the_hour_that_comes_twice_in_autumn(cron: Any, now: str, tick: str) -> None:
    assert last_tick(cron, at(now), BERLIN) == at(tick)


WINDOWS = [
    ("Europe/Berlin", "2026-03-26"),  # clocks forward
    ("Europe/Berlin", "2026-10-22"),  # and back
    ("Australia/Lord_Howe", "2026-10-01"),  # by half an hour
    ("Australia/Lord_Howe", "2026-04-02"),
    ("America/Sao_Paulo", "2018-11-01"),  # at midnight
    ("America/Sao_Paulo", "2018-02-14"),
    ("UTC", "2024-02-26"),
    ("Asia/Kathmandu", "2026-12-28"),
]
DAYS = 7


@cache
def minutes_of(zone: str, begin: str) -> list[tuple[datetime, datetime]]:
    """Each minute of a window, in UTC and on the clock."""
    begins = at(begin)
    minutes = [begins + number * MINUTE for number in range(DAYS * 24 * 60)]
    return [(minute, minute.astimezone(ZoneInfo(zone)).replace(tzinfo=None)) for minute in minutes]


def matches(cron: Any, clock: datetime) -> bool:
    return (
        clock.minute in cron.minute
        and clock.hour in cron.hour
        and clock.isoweekday() % 7 in cron.day_of_week
        and clock.day in cron.day_of_month
        and clock.month in cron.month_of_year
    )


def ticks_of(cron: Any, zone: str, begin: str) -> list[datetime]:
    """The ticks of a window, by looking at each of its minutes, forward."""
    every_hour, latest, ticks = len(cron.hour) == 24, None, []
    for minute, clock in minutes_of(zone, begin):
        new = latest is None or clock > latest
        skipped = clock
        if latest is not None and new and not every_hour:
            skipped = latest + MINUTE
        if (new or every_hour) and any(
            matches(cron, skipped + number * MINUTE) for number in range((clock - skipped) // MINUTE + 1)
        ):
            ticks.append(minute)
        latest = clock if new else latest
    return ticks


def some(low: int, high: int) -> Any:
    few = st.sets(st.integers(low, high), min_size=1, max_size=3)
    return st.one_of(st.just(set(range(low, high + 1))), few)


@st.composite
def crontabs(draw: Any) -> Any:
    minute = draw(st.one_of(some(0, 59), st.sets(st.sampled_from([0, 1, 29, 30, 31, 59]), min_size=1)))
    hour = draw(st.one_of(some(0, 23), st.sets(st.integers(0, 4), min_size=1)))
    return crontab(minute, hour, day_of_week=draw(some(0, 6)), day_of_month=draw(some(1, 28)))


@settings(deadline=None, max_examples=200)
@given(crontabs(), st.sampled_from(WINDOWS), st.integers(0, DAYS * 24 * 60 - 1), st.integers(0, 59_999_999))
def test_it_is_what_looking_at_each_minute_finds(cron: Any, window: tuple[str, str], minute: int, more: int) -> None:
    zone, begin = window
    now = at(begin) + minute * MINUTE + timedelta(microseconds=more)
    expected = [tick for tick in ticks_of(cron, zone, begin) if tick <= now]
    found = last_tick(cron, now.astimezone(BERLIN), ZoneInfo(zone))
    assert found.utcoffset() == timedelta(0)
    assert found == expected[-1] if expected else found < at(begin)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "UTC"])
@pytest.mark.parametrize(
    "cron", [{"minute": 30, "hour": 2}, {"minute": "*/20", "hour": "1-3"}, {"minute": 15}, {"minute": 0, "hour": 0}]
)
def test_each_time_that_a_beat_sends_has_an_id_of_its_own(zone: str, cron: dict[str, Any]) -> None:
    """Celery's own reckoning, over the days on which the clocks change."""
    app = Celery("beats", set_as_current=False)
    app.conf.timezone = zone
    clock = [at("2026-01-01")]
    entry = crontab(**cron, app=app, nowfun=lambda: clock[0].astimezone(app.timezone))
    ids = []
    for begin, days in (("2026-03-06", 25), ("2026-10-23", 12)):
        clock[0] = last_run = at(begin)
        while clock[0] < at(begin) + timedelta(days=days):
            clock[0] += max(entry.remaining_estimate(last_run.astimezone(app.timezone)), timedelta(0))
            last_run = clock[0] = clock[0] + timedelta(milliseconds=3)
            ids.append(tick_id("t", entry, 0, clock[0], app.timezone))
    assert len(ids) > 30
    assert len(set(ids)) == len(ids)


def never() -> Any:
    """30 February: the newest Celery makes none, older ones do."""
    made = crontab(minute=0, hour=0)
    made.day_of_month, made.month_of_year = {30}, {2}
    return made


def test_a_crontab_that_never_ticks_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no tick in the 8 years before 2026-05-13"):
        last_tick(never(), at("2026-05-13"), BERLIN)
    with pytest.raises(ConfigurationError, match="no tick"):
        check("never", [on_schedule(never())])


# ----------------------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    ("interval", "now", "tick"),
    [
        (10, "2026-05-13 12:00:09.999999", "2026-05-13 12:00:00"),
        (10, "2026-05-13 12:00:10", "2026-05-13 12:00:10"),
        (timedelta(hours=1), "2026-05-13 12:59:59", "2026-05-13 12:00"),
        (timedelta(days=1), "2026-05-13 00:00", "2026-05-13 00:00"),
        (timedelta(days=7), "1970-01-15 00:00", "1970-01-15 00:00"),
        (schedule(90), "1970-01-01 00:03:01", "1970-01-01 00:03"),
        (schedule(timedelta(minutes=1), relative=True), "2026-05-13 12:00:59", "2026-05-13 12:00"),
        (0.25, "2026-05-13 12:00:00.6", "2026-05-13 12:00:00.500000"),
        (1.5, "1970-01-01 00:00:02", "1970-01-01 00:00:01.500000"),
    ],
)
def test_an_interval_ticks_at_whole_multiples_since_the_epoch(interval: Any, now: str, tick: str) -> None:
    assert last_tick(interval, at(now), BERLIN) == at(tick)
    assert last_tick(interval, at(now).astimezone(BERLIN), UTC) == at(tick)


@given(
    st.integers(1, 10**12),
    st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.sampled_from([UTC, BERLIN])),  # noqa: DTZ001
)
def test_the_floor_of_an_interval(interval: int, now: datetime) -> None:
    every = timedelta(microseconds=interval)
    now = now.astimezone(UTC)
    found = last_tick(every, now, UTC)
    assert timedelta(0) <= now - found < every
    assert (found - at("1970-01-01")) % every == timedelta(0)


# ----------------------------------------------------------------------------------- ids


@pytest.mark.parametrize(
    ("given_schedule", "number", "expected"),
    [
        (crontab(minute=0, hour=9), 0, "pkg.report@2026-07-01T07:00:00Z"),
        (crontab(minute=0, hour=9), 1, "pkg.report@2026-07-01T07:00:00Z#1"),
        (timedelta(minutes=5), 12, "pkg.report@2026-07-01T08:30:00Z#12"),
        (0.25, 0, "pkg.report@2026-07-01T08:34:56.250000Z"),
        (timedelta(milliseconds=100), 0, "pkg.report@2026-07-01T08:34:56.400000Z"),
        (1.5, 0, "pkg.report@2026-07-01T08:34:55Z"),
    ],
)
def test_the_id_of_a_ticks_run(given_schedule: Any, number: int, expected: str) -> None:
    now = at("2026-07-01 10:34:56.450+02:00")
    assert tick_id("pkg.report", given_schedule, number, now, BERLIN) == expected


@pytest.mark.parametrize("interval", [0.0625, 0.5, 1, 1.25, 1.999999])
def test_each_tick_has_an_id_of_its_own(interval: float) -> None:
    every = timedelta(seconds=interval)
    ids = [tick_id("t", every, 0, at("2026-05-13 12:00") + number * every, UTC) for number in range(500)]
    assert len(set(ids)) == 500


def test_a_name_too_long_for_the_ids_is_refused() -> None:
    longest = "t" * (255 - len("@2026-05-13T12:00:00Z"))
    check(longest, [on_schedule(60)])
    for name, triggers in ((longest + "t", [on_schedule(60)]), (longest, [on_schedule(60), on_schedule(crontab())])):
        with pytest.raises(ConfigurationError, match=r"would have 25\d characters; 255 are the most"):
            check(name, triggers)
    with pytest.raises(ConfigurationError, match="shorter name"):
        check(longest, [on_schedule(0.5)])
