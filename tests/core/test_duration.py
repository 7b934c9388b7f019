from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_durable.core.duration import SECOND, as_datetime, describe, micros, moment

YEAR = 366 * 86_400


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5_400),
        ("3d", 259_200),
        ("2w", 1_209_600),
        ("250ms", 0.25),
        ("7us", 0.000_007),
        ("1.5h", 5_400),
        (" 1h  30m ", 5_400),
        ("0s", 0),
        (timedelta(minutes=2), 120),
        (timedelta(microseconds=1), 0.000_001),
        (0, 0),
        (2, 2),
        (0.5, 0.5),
        (100 * YEAR, 100 * YEAR),
    ],
)
def test_durations(duration: object, seconds: float) -> None:
    assert micros(duration) == round(seconds * SECOND)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "duration",
    [
        *("", "   ", "soon", "30", "30 parsecs", "1h-30m", "h", "-1s", "1h and 3m", "101000w", "9" * 400 + "w"),
        *(-1, -0.5, float("nan"), float("inf"), 101 * YEAR, timedelta(seconds=-1), timedelta.max),
    ],
)
def test_values_that_are_no_duration(duration: object) -> None:
    with pytest.raises(ValueError) as caught:
        micros(duration)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize("duration", [None, True, [], b"1s", datetime(2026, 1, 1, tzinfo=timezone.utc)])
def test_types_that_are_no_duration(duration: object) -> None:
    with pytest.raises(TypeError, match="write it as"):
        micros(duration)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "when",
    [
        datetime(2026, 11, 21, 9, tzinfo=timezone.utc),
        datetime(2026, 11, 21, 14, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        "2026-11-21T09:00:00Z",
        "2026-11-21T09:00:00+00:00",
        "2026-11-21T10:00:00+01:00",
        1795251600,
        1795251600.0,
    ],
)
def test_one_moment_in_all_its_forms(when: object) -> None:
    assert moment(when) == 1_795_251_600 * SECOND  # type: ignore[arg-type]
    assert as_datetime(moment(when)) == datetime(2026, 11, 21, 9, tzinfo=timezone.utc)  # type: ignore[arg-type]


@pytest.mark.parametrize("when", [datetime(2026, 11, 21, 9), "2026-11-21T09:00:00", "2026-11-21"])  # noqa: DTZ001
def test_a_moment_without_an_offset_is_refused(when: object) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        moment(when)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "when",
    [
        "tomorrow",
        "",
        float("nan"),
        float("inf"),
        1e18,
        10**400,
        -1e11,
    ],
)
def test_values_that_are_no_moment(when: object) -> None:
    with pytest.raises(ValueError, match="no point in time"):
        moment(when)  # type: ignore[arg-type]


@pytest.mark.parametrize("when", [None, True, [], timedelta(days=1)])
def test_types_that_are_no_moment(when: object) -> None:
    with pytest.raises(TypeError, match="no point in time"):
        moment(when)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("duration", "text"),
    [(0, "0s"), (1, "0s"), (1_000, "1ms"), (90 * SECOND, "1m30s"), (86_400 * SECOND, "1d"), (90_061 * SECOND, "1d1h")],
)
def test_describe(duration: int, text: str) -> None:
    assert describe(duration) == text


@given(st.timedeltas(timedelta(0), timedelta(days=36_600)))
def test_a_timedelta_is_kept_exactly(duration: timedelta) -> None:
    assert timedelta(microseconds=micros(duration)) == duration


@given(st.datetimes(timezones=st.timezones()))
def test_an_aware_datetime_is_kept_exactly(when: datetime) -> None:
    try:
        expected = when.astimezone(timezone.utc)
    except OverflowError:  # the first and the last day of all
        return
    assert as_datetime(moment(when)) == expected
