"""The page on performance and its pictures are what the results make of them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from bench import plots
from bench.comparisons import OURS, Figure
from bench.results import load


def test_pictures_are_made_of_the_results() -> None:
    made = plots.pictures(load())

    kept = {path.name: path.read_text() for path in plots.PICTURES.glob("peers-*.svg")}

    assert made
    assert kept == made, "run python -m bench.plots"


def test_tables_are_made_of_the_results() -> None:
    page = plots.PAGE.read_text()

    assert plots.with_table(page, load()) == page, "run python -m bench.plots"


def test_pictures_stay_inside_their_card() -> None:
    for name, drawn in plots.pictures(load()).items():
        root = ElementTree.fromstring(drawn)
        height = float(root.attrib["height"])
        for element in root.iter():
            left, top = float(element.get("x", 0)), float(element.get("y", 0))
            assert left + float(element.get("width", 0)) <= plots.WIDTH, name
            assert top <= height, name


def test_whoever_is_better_is_told() -> None:
    """Above 1 where ours is better, whichever way the figure goes."""
    time = Figure("time", "ms", lambda turn: turn[0])
    rate = Figure("rate", "/s", lambda turn: turn[0], more_is_better=True)

    assert time.ratio([[2.0]], [[6.0]]) == pytest.approx(3.0)
    assert rate.ratio([[6.0]], [[2.0]]) == pytest.approx(3.0)
    assert time.ratio([[0.0]], [[6.0]]) is None


def test_ratio_is_of_what_was_measured_in_one_turn() -> None:
    figure = Figure("time", "ms", lambda turn: turn[0])
    ours, theirs = [[1.0], [10.0], [100.0]], [[2.0], [20.0], [200.0]]

    assert figure.ratio(ours, theirs) == pytest.approx(2.0)
    assert figure.value(ours) == pytest.approx(10.0)


def test_each_comparison_has_ours() -> None:
    for comparisons in load()["databases"].values():
        for record in comparisons.values():
            assert OURS in record["ways"]
