from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_durable import Run, StepRecord
from celery_durable.console.timeline import Timeline, steady_now, timeline
from celery_durable.model import AttemptRecord, ErrorInfo

from .steps import at, made

HOUR = 3600.0
ERROR = ErrorInfo(type="ConnectionError", message="503")


def a_run(began: float | None = 0, ended: float | None = None, **values: Any) -> Run:
    facts: dict[str, Any] = {
        "id": "r",
        "task": "t",
        "status": "suspended" if ended is None else "completed",
        "created_at": at(0),
        "started_at": None if began is None else at(began),
        "finished_at": None if ended is None else at(ended),
    }
    return Run(**facts | values)


def drawn(run: Run, *steps: StepRecord, now: float = 0, **options: Any) -> Timeline:
    return timeline(run, steps, at(now), **{"is_whole": True} | options)


def bars(found: Timeline) -> dict[str, list[tuple[str, int, int]]]:
    return {row.step.id: [(bar.sort, bar.x, bar.w) for bar in row.bars] for row in found.rows}


def test_what_is_done_is_to_scale() -> None:
    found = drawn(a_run(ended=10), made("a", 0, 4), made("b", 4, 5), made("c", 5, 10))
    assert bars(found) == {"a": [("work", 0, 400)], "b": [("work", 400, 100)], "c": [("work", 500, 500)]}
    assert not found.gaps
    assert not found.can_fold


def test_steps_that_overlap_do_so_on_the_axis() -> None:
    found = drawn(a_run(ended=10), made("a", 0, 10), made("b", 2, 4))
    assert bars(found)["b"] == [("work", 200, 200)]


def test_a_long_sleep_is_folded_to_a_small_width_that_tells_its_length() -> None:
    run = a_run(ended=72 * HOUR + 4)
    steps = [made("a", 0, 2), made("nap", 2, 72 * HOUR + 2, kind="sleep"), made("b", 72 * HOUR + 2, 72 * HOUR + 4)]
    found = drawn(run, *steps)
    (gap,) = found.gaps
    assert gap.lasting == timedelta(days=3)
    assert gap.w == 48
    assert bars(found) == {"a": [("work", 0, 476)], "nap": [("quiet", 476, 48)], "b": [("work", 524, 476)]}


def test_true_scale_on_demand() -> None:
    run = a_run(ended=1000)
    found = drawn(run, made("a", 0, 1), made("nap", 1, 999, kind="sleep"), made("b", 999, 1000), folded=False)
    assert found.gaps == ()
    assert found.can_fold
    assert bars(found) == {"a": [("work", 0, 1)], "nap": [("quiet", 1, 998)], "b": [("work", 999, 1)]}


def test_what_something_else_goes_on_beside_is_not_folded() -> None:
    found = drawn(a_run(ended=HOUR), made("call", 0, HOUR, kind="call"), made("nap", 60, 1800, kind="sleep"))
    assert not found.can_fold
    assert bars(found)["nap"] == [("quiet", 17, 483)]


@pytest.mark.parametrize("kind", ["sleep", "wait", "lock"])
def test_waiting_alone_is_idle(kind: str) -> None:
    assert drawn(a_run(ended=HOUR), made("a", 0, 1), made("w", 1, HOUR, kind=kind)).gaps


def test_times_that_people_count_in_one_go_are_never_folded() -> None:
    assert not drawn(a_run(ended=5), made("a", 0, 0), made("nap", 0, 5, kind="sleep")).can_fold


def test_several_waits_are_several_folds_in_their_order() -> None:
    run = a_run(ended=180)
    found = drawn(run, made("short", 0, 90, kind="sleep"), made("long", 0, 120, kind="sleep"), made("late", 180, 180))
    assert [gap.lasting.total_seconds() for gap in found.gaps] == [90, 30, 60]
    assert bars(found) == {"short": [("quiet", 0, 333)], "long": [("quiet", 0, 667)], "late": [("work", 1000, 0)]}


def test_of_very_many_waits_the_longest_are_folded_and_the_rest_keeps_half_of_the_axis() -> None:
    steps = []
    for loop in range(60):
        steps += [
            made(f"w{loop}", loop * 101, loop * 101 + 1),
            made(f"s{loop}", loop * 101 + 1, (loop + 1) * 101, kind="sleep"),
        ]
    found = drawn(a_run(ended=60 * 101), *steps)
    assert len(found.gaps) == 25
    assert sum(gap.w for gap in found.gaps) <= 500


def test_a_run_of_one_instant_is_drawn_too() -> None:
    found = drawn(a_run(ended=0), made("a", 0, 0), made("b", 0, 0))
    assert bars(found) == {"a": [("work", 0, 0)], "b": [("work", 0, 0)]}
    assert len(found.ticks) == 1


def test_a_run_that_has_not_begun_has_a_bar_of_its_own() -> None:
    found = drawn(a_run(began=None, status="pending"), now=10)
    assert [(bar.sort, bar.x, bar.w, bar.is_open) for bar in found.run] == [("queued", 0, 1000, True)]
    assert found.rows == ()


def test_the_run_until_a_worker_took_it_and_from_then_on() -> None:
    found = drawn(a_run(began=2, ended=10), made("a", 2, 10))
    assert [(bar.sort, bar.x, bar.w) for bar in found.run] == [("queued", 0, 200), ("body", 200, 800)]


class TestAttempts:
    def tried(self, number: int, began: float, ended: float) -> AttemptRecord:
        return AttemptRecord(number=number, started_at=at(began), finished_at=at(ended), error=ERROR)

    def test_each_has_a_bar_and_so_has_the_time_between(self) -> None:
        step = made("a", 8, 10, attempts=3, tries=(self.tried(1, 0, 1), self.tried(2, 3, 4)))
        found = drawn(a_run(ended=10), step)
        assert bars(found)["a"] == [
            ("failed", 0, 100),
            ("backoff", 100, 200),
            ("failed", 300, 100),
            ("backoff", 400, 400),
            ("work", 800, 200),
        ]
        assert [bar.attempt for bar in found.rows[0].bars] == [1, None, 2, None, 3]

    def test_the_last_one_may_have_failed_too(self) -> None:
        step = made("a", 2, 4, status="failed", error=ERROR, attempts=2, tries=(self.tried(1, 0, 1),))
        assert [bar.sort for bar in drawn(a_run(ended=4, status="failed"), step).rows[0].bars] == [
            "failed",
            "backoff",
            "failed",
        ]

    @pytest.mark.parametrize("told", [False, True])
    def test_one_that_is_to_come_is_waited_for(self, told: bool) -> None:
        """Whether or not the attempt that has just failed is told as one that has failed."""
        tries = (self.tried(1, 0, 1),) if told else ()
        step = made("a", 0, 1, status="waiting", error=ERROR, attempts=1, tries=tries, wake_at=at(30))
        found = drawn(a_run(), step, now=4)
        assert [(bar.sort, bar.x, bar.w, bar.is_open) for bar in found.rows[0].bars] == [
            ("failed", 0, 250, False),
            ("backoff", 250, 750, True),
        ]


class TestWhatGoesOn:
    def test_it_reaches_to_the_end_and_is_open(self) -> None:
        found = drawn(a_run(status="running"), made("a", 0, 1), made("call", 1, kind="call"), now=5)
        (bar,) = found.rows[1].bars
        assert (bar.x, bar.w, bar.is_open) == (200, 800, True)

    def test_now_is_never_before_what_is_recorded(self) -> None:
        found = drawn(a_run(), made("w", 60, kind="wait"), now=-30)
        (bar,) = found.rows[0].bars
        assert bar.x + bar.w <= 1000

    def test_a_page_does_not_change_with_every_look(self) -> None:
        run = a_run()
        assert steady_now(run, at(0)) == steady_now(run, at(0.9)) == at(1)
        later = [steady_now(run, at(48 * HOUR + seconds)) for seconds in range(0, 600, 60)]
        assert len(set(later)) <= 2
        for seconds in (0, 1, 59, 3600, 1e6):
            ahead = (steady_now(run, at(seconds)) - at(seconds)).total_seconds()
            assert 0 < ahead <= max(1, seconds / 32)


def test_of_a_part_of_the_steps_the_axis_is_theirs() -> None:
    found = drawn(a_run(ended=9000), made("a", 5000, 5001), made("b", 5001, 5002), is_whole=False)
    assert (found.since, found.until) == (at(5000), at(5002))
    assert bars(found) == {"a": [("work", 0, 500)], "b": [("work", 500, 500)]}
    assert [(bar.x, bar.w) for bar in found.run] == [(0, 1000)]


def test_steps_of_a_fork_lie_before_its_own_beginning() -> None:
    found = drawn(a_run(ended=3), made("copied", -5, -3), made("own", 1, 3))
    assert found.since == at(-5)
    assert bars(found)["copied"][0][1] == 0


class TestTicks:
    def test_they_are_round_times_with_the_day_where_it_changes(self) -> None:
        found = drawn(a_run(ended=120), made("a", 0, 120))
        assert [(tick.x, tick.text, tick.day) for tick in found.ticks] == [
            (0, "00:00:00", "1 Mar"),
            (250, "00:00:30", None),
            (500, "00:01:00", None),
            (1000, "00:02:00", None),
        ]

    def test_thousandths_are_told_where_they_matter(self) -> None:
        found = drawn(a_run(ended=0.5), made("a", 0, 0.5))
        assert found.ticks[0].text == "00:00:00.000"

    def test_behind_a_fold_there_is_one(self) -> None:
        found = drawn(
            a_run(ended=30 * HOUR + 2),
            made("a", 0, 1),
            made("s", 1, 30 * HOUR, kind="sleep"),
            made("b", 30 * HOUR, 30 * HOUR + 2),
        )
        (gap,) = found.gaps
        behind = next(tick for tick in found.ticks if tick.x == gap.x + gap.w)
        assert (behind.text[:8], behind.day) == ("06:00:00", "2 Mar")


def any_run(seed: int) -> tuple[Run, list[StepRecord]]:
    luck = Random(seed)
    steps, clock = [], 0.0
    for place in range(luck.choice((0, 1, 3, 20))):
        clock += luck.choice((0, 0, 1, 60, 1e5)) * luck.random()
        ended = luck.choice((None, clock, clock + luck.random(), clock + luck.uniform(0, 1e5)))
        kind = luck.choice(("run", "sleep", "wait", "call"))
        steps.append(made(f"s{place}", clock, ended, position=place, kind=kind))
    return a_run(began=luck.choice((None, 0, 5)), status="suspended"), steps


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**9), st.booleans(), st.booleans())
def test_each_step_has_its_row_and_the_axis_keeps_order(seed: int, folded: bool, is_whole: bool) -> None:
    run, steps = any_run(seed)
    found = timeline(run, steps, at(2e5), is_whole=is_whole, folded=folded)
    assert [row.step.id for row in found.rows] == [step.id for step in steps]
    all_bars = [bar for row in found.rows for bar in row.bars] + list(found.run)
    for bar in all_bars:
        assert 0 <= bar.x <= bar.x + bar.w <= 1000
    times = sorted([(bar.since, bar.x) for bar in all_bars if bar.since >= found.since])
    assert [x for _, x in times] == sorted(x for _, x in times)
    assert all(gap.x >= 0 and gap.w > 0 and gap.x + gap.w <= 1000 for gap in found.gaps)
    assert [gap.x for gap in found.gaps] == sorted(gap.x for gap in found.gaps)
    assert [tick.at for tick in found.ticks] == sorted(tick.at for tick in found.ticks)
