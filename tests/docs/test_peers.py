"""How the benchmark asks other engines, and takes turns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.comparisons import Comparison, Figure, Way
from bench.peers import in_turns
from bench.programs import Program, Silent

FIGURE = Figure("time", "s", lambda turn: turn[0])


@contextmanager
def program(measurements: str) -> Iterator[Program]:
    code = f"from bench.peer_talk import serve; serve({measurements})"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield Program(process, "a program", "no database")
        assert process.stdin is not None
        process.stdin.close()


def test_a_program_answers_each_line() -> None:
    with program("{'sum': lambda a, b: [a + b], 'same': lambda *given: list(given)}") as asked:
        assert asked.ask("sum 1 2.5") == [3.5]
        assert asked.ask("same 1 2") == [1, 2]


def test_what_an_engine_prints_is_no_answer() -> None:
    with program("{'loud': lambda: [print('hello'), 1][1:]}") as asked:
        assert asked.ask("loud") == [1]


def test_a_program_that_has_ended_is_told_of() -> None:
    with program("{'end': lambda: __import__('os')._exit(3)}") as asked, pytest.raises(Silent, match="a program"):
        asked.ask("end")


def test_each_turn_begins_with_another_and_the_first_is_to_warm_up() -> None:
    asked: list[str] = []

    class Asked:
        def ask(self, line: str) -> list[float]:
            asked.append(line)
            return [float(len(asked))]

    @contextmanager
    def opened(name: str) -> Iterator[Asked]:
        yield Asked()

    ways = [Way("celery_durable", "ours", "a"), Way("one", "other", "b"), Way("two", "other", "c")]
    comparison = Comparison("steps", "a step", ("1", "2"), (FIGURE,), tuple(ways))

    found = in_turns(comparison, ways, opened, 2)

    assert [line[0] for line in asked[::2]] == ["c", "a", "b", "a", "b", "c", "b", "c", "a"]
    assert asked[:2] == ["c 1", "c 2"]
    assert found == {
        "celery_durable": [[7.0, 8.0], [17.0, 18.0]],
        "one": [[9.0, 10.0], [13.0, 14.0]],
        "two": [[11.0, 12.0], [15.0, 16.0]],
    }
