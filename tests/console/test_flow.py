from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_durable import StepRecord
from celery_durable.console.flow import Block, Fold, Node, Part, flow, steps_in

from .steps import made, sequence


def drawn(parts: Iterable[Part]) -> list[Any]:
    """A graph as lists: the ids of steps, how many are in a fold, and blocks by their kinds."""
    return [_drawn(part) for part in parts]


def _drawn(part: Part) -> Any:
    if isinstance(part, Node):
        return part.step.id
    if isinstance(part, Fold):
        return len(part.steps)
    return {part.kind: [drawn(column) for column in part.columns]}


def in_blocks(*given: tuple[str, str | None]) -> list[StepRecord]:
    return [made(name, place, place + 1, position=place, block=block) for place, (name, block) in enumerate(given)]


def test_no_step_is_no_graph() -> None:
    assert flow([]) == ()


def test_a_short_run_is_shown_whole() -> None:
    assert drawn(flow(sequence(40))) == [f"s{place}" for place in range(40)]


def test_branches_stand_side_by_side_and_blocks_within_blocks() -> None:
    steps = in_blocks(
        ("before", None),
        ("a", "parallel:1"),
        ("b", "parallel:1/race:2"),
        ("c", "parallel:1/race:2"),
        ("m[0]", "parallel:1/map:4"),
        ("m[1]", "parallel:1/map:4"),
        ("d", "parallel:1"),
        ("alone", "map:7"),
        ("after", None),
    )
    assert drawn(flow(steps)) == [
        "before",
        {"parallel": [["a"], [{"race": [["b"], ["c"]]}], [{"map": [["m[0]"], ["m[1]"]]}], ["d"]]},
        {"map": [["alone"]]},
        "after",
    ]


def test_two_blocks_in_a_row_are_two() -> None:
    steps = in_blocks(("a", "parallel:0"), ("b", "parallel:0"), ("c", "parallel:2"), ("d", "parallel:2"))
    assert drawn(flow(steps)) == [{"parallel": [["a"], ["b"]]}, {"parallel": [["c"], ["d"]]}]


def test_a_block_that_begins_with_a_block_is_told_from_it() -> None:
    steps = in_blocks(("a", "parallel:0/parallel:0"), ("b", "parallel:0/parallel:0"), ("c", "parallel:0"))
    assert drawn(flow(steps)) == [{"parallel": [[{"parallel": [["a"], ["b"]]}], ["c"]]}]


def test_what_is_recorded_between_the_branches_of_a_block_does_not_cut_it_in_two() -> None:
    steps = in_blocks(("a", "parallel:0"), ("state", None), ("b", "parallel:0"))
    assert drawn(flow(steps)) == [{"parallel": [["a"], ["b"]]}, "state"]


class TestOnlyTheClockTells:
    def test_steps_that_overlap_are_side_by_side(self) -> None:
        steps = [made("a", 0, 5), made("b", 1, 3), made("c", 5, 6)]
        assert drawn(flow(steps)) == [{"together": [["a"], ["b"]]}, "c"]

    def test_each_column_is_a_sequence_of_steps_that_do_not_overlap(self) -> None:
        steps = [made("a1", 0, 5), made("b1", 0, 2), made("b2", 2, 4), made("b3", 4, 5), made("a2", 5, 6)]
        assert drawn(flow(steps)) == [{"together": [["a1"], ["b1", "b2", "b3"]]}, "a2"]

    def test_a_chain_of_overlaps_is_one_group(self) -> None:
        steps = [made("a", 0, 3), made("b", 2, 5), made("c", 4, 6), made("d", 6, 7)]
        assert drawn(flow(steps)) == [{"together": [["a", "c"], ["b"]]}, "d"]

    def test_what_goes_on_overlaps_with_all_that_comes_after(self) -> None:
        steps = [made("w", 0), made("a", 1, 2), made("b", 3, 4)]
        assert drawn(flow(steps)) == [{"together": [["w"], ["a", "b"]]}]

    def test_a_step_between_two_attempts_goes_on(self) -> None:
        steps = [made("again", 0, 1, status="waiting"), made("b", 5, 6)]
        assert drawn(flow(steps)) == [{"together": [["again"], ["b"]]}]

    def test_one_instant_and_the_noise_of_two_clocks_are_no_overlap(self) -> None:
        steps = [made("a", 0, 0), made("b", 0, 2), made("c", 1.9995, 3)]
        assert drawn(flow(steps)) == ["a", "b", "c"]

    def test_branches_of_a_block_need_no_clock(self) -> None:
        steps = [made("a", 0, 1, block="parallel:0"), made("b", 1, 2, block="parallel:0", position=1)]
        assert drawn(flow(steps)) == [{"parallel": [["a"], ["b"]]}]

    def test_a_step_without_times_stands_alone(self) -> None:
        bare = made("b", 0, 0, started_at=None, finished_at=None)
        assert drawn(flow([made("a", 0, 1), bare, made("c", 1, 2)]))[:2] == ["a", "b"]


class TestFolds:
    def test_plain_steps_are_folded_but_for_the_first_and_the_last(self) -> None:
        parts = drawn(flow(sequence(5000)))
        assert parts[:8] == [f"s{place}" for place in range(8)]
        assert parts[8] == 4976
        assert parts[9:] == [f"s{place}" for place in range(4984, 5000)]

    def test_what_failed_or_waits_is_shown_with_what_stands_around_it(self) -> None:
        failed = made("s700", 700, 701, status="failed")
        parts = drawn(flow(sequence(1000, s700=failed)))
        assert parts[8:15] == [690, "s698", "s699", "s700", "s701", "s702", 281]

    def test_few_plain_steps_are_not_worth_a_fold(self) -> None:
        failed = made("s14", 14, 15, status="failed")
        assert drawn(flow(sequence(100, s14=failed)))[:17] == [f"s{place}" for place in range(17)]

    def test_of_many_failures_the_last_are_shown_and_a_fold_tells_of_the_others(self) -> None:
        steps = [step.model_copy(update={"status": "failed"}) for step in sequence(3000)]
        parts = flow(steps)
        (fold,) = [part for part in parts if isinstance(part, Fold)]
        assert fold.odd == len(fold.steps) > 2900

    def test_a_wide_block_is_folded_between_its_columns(self) -> None:
        steps = [made(f"m[{place}]", 0, 1, position=place, block="map:0") for place in range(3000)]
        (block,) = flow(steps)
        assert isinstance(block, Block)
        widths = drawn(block.columns[8])
        assert widths == [2976]
        assert len(block.columns) == 8 + 1 + 16

    def test_blocks_of_which_nothing_is_shown_are_in_the_fold_of_the_sequence(self) -> None:
        steps = [
            made(f"{loop}-{branch}", loop, loop + 1, position=2 * loop + branch, block=f"parallel:{2 * loop}")
            for loop in range(500)
            for branch in range(2)
        ]
        parts = drawn(flow(steps))
        assert parts[4] == 1000 - 24
        assert parts[0] == {"parallel": [["0-0"], ["0-1"]]}

    def test_a_fold_that_falls_apart_into_few_steps_is_none(self) -> None:
        """Seven steps before a block of thousands: they are in one stretch with the block's, and alone."""
        before = [made(f"s{place}", place, place + 1, position=place) for place in range(12)]
        wide = [made(f"m[{place}]", 12, 13, position=12 + place, block="map:12") for place in range(900)]
        parts = drawn(flow([*before, *wide]))
        assert parts[:12] == [f"s{place}" for place in range(12)]
        assert len(parts) == 13


_BLOCKS = [None, None, "parallel:0", "parallel:0/race:1", "parallel:0/parallel:0", "map:3", "race:5/map:5"]


def any_steps(seed: int) -> list[StepRecord]:
    """Whatever steps: in blocks or not, long and short, some under way."""
    luck = Random(seed)
    steps = []
    for place in range(luck.choice((0, 1, 5, 30, 100, 150))):
        began = luck.choice((place, luck.uniform(0, 100)))
        ended = luck.choice((None, began, began + 1, began + 1, began + 1, began + luck.uniform(0, 50)))
        values: dict[str, Any] = {"position": place, "block": luck.choice(_BLOCKS)}
        if ended is not None:
            values["status"] = luck.choice(("completed", "completed", "completed", "failed", "cancelled"))
        steps.append(made(f"s{place}", began, ended, **values))
    return steps


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9))
def test_every_step_is_in_the_graph_once(seed: int) -> None:
    steps = any_steps(seed)
    assert Counter(step.id for step in steps_in(flow(steps))) == Counter(step.id for step in steps)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**9))
def test_within_a_fold_and_along_the_sequence_the_order_is_kept(seed: int) -> None:
    last = -1
    for part in flow([step.model_copy(update={"block": None}) for step in any_steps(seed)]):
        positions = [step.position for step in steps_in([part])]
        if isinstance(part, Fold):
            assert positions == sorted(positions)
        assert min(positions) > last
        last = max(positions)


@pytest.mark.parametrize("status", ["completed", "failed", "waiting"])
@pytest.mark.parametrize("block", [None, "map:0"])
def test_a_graph_is_bounded_however_long_the_run_is(status: str, block: str | None) -> None:
    values: dict[str, Any] = {"status": status, "block": block}
    steps = [made(f"s{place}", place, place + 1, position=place, **values) for place in range(5000)]
    assert _nodes(flow(steps)) < 300


def _nodes(parts: Iterable[Part]) -> int:
    return sum(sum(_nodes(column) for column in part.columns) if isinstance(part, Block) else 1 for part in parts)
