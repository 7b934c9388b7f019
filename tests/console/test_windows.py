from __future__ import annotations

from celery_durable import Run
from celery_durable.console.windows import failed_steps, open_steps, window

from .steps import at, made, sequence


def test_all_steps_of_a_short_run() -> None:
    found = window(sequence(200))
    assert found.is_whole
    assert found.last
    assert (found.earlier, found.later) == (None, None)
    assert window([]).is_whole


def test_the_last_steps_of_a_long_one_if_nothing_is_said() -> None:
    found = window(sequence(5000))
    assert (found.first, found.total, len(found.steps)) == (4800, 5000, 200)
    assert (found.earlier, found.later, found.last) == (4600, None, True)


def test_from_a_position_on() -> None:
    found = window(sequence(5000), 1000)
    assert [found.steps[0].id, found.steps[-1].id] == ["s1000", "s1199"]
    assert (found.earlier, found.later, found.last) == (800, 1200, False)


def test_going_from_window_to_window_shows_each_step_once() -> None:
    steps, seen = sequence(777), []
    start: int | None = 0
    while start is not None:
        found = window(steps, start)
        seen += [step.id for step in found.steps]
        start = found.later
    assert seen == [step.id for step in steps]


def test_positions_may_have_gaps_and_the_place_may_be_gone() -> None:
    steps = [made(f"s{place}", 0, 1, position=place * 3) for place in range(500)]
    assert window(steps, 4).steps[0].id == "s2"
    assert window(steps, 10**6).steps[0].id == "s499"


def test_where_a_run_is_and_what_failed() -> None:
    steps = (made("a", 0, 1, status="failed"), made("b", 1), made("c", 1, status="started"), made("d", 1, 2))
    run = Run(id="r", task="t", status="suspended", created_at=at(0), steps=steps)
    assert [step.id for step in open_steps(run)] == ["b", "c"]
    assert [step.id for step in failed_steps(run)] == ["a"]
    assert open_steps(run.model_copy(update={"status": "failed"})) == []
