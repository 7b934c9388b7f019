"""Tables: columns that fit, characters of any width, and text that no terminal obeys."""

from __future__ import annotations

import io

import pytest

from celery_durable.cli.tables import Cell, Column, Screen, cleaned, cut, width_of

PIPE = Screen()
NAMES = (Column("id"), Column("why", least=6), Column("age", right=True))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "width"), [("", 0), ("abc", 3), ("日本", 4), ("é", 1), ("e\u0301", 1), ("👍", 2), ("\uff57", 2)]
)
def test_the_width_of_a_text(text: str, width: int) -> None:
    assert width_of(text) == width


@pytest.mark.parametrize(
    ("text", "width", "shown"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),
        ("a b c", 3, "a…"),
        ("ab", 1, "…"),
    ],
)
def test_a_text_is_cut(text: str, width: int, shown: str) -> None:
    assert cut(text, width) == shown
    assert width_of(shown) <= width


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("back\x08", "back\\x08"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("日本 größe", "日本 größe"),
        ("👩\u200d🔬", "👩\u200d🔬"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(text: str, shown: str) -> None:
    assert cleaned(text) == shown


def test_in_a_pipe_a_table_is_aligned_and_whole() -> None:
    long = "x" * 300
    lines = PIPE.table(NAMES, [("日本", long, "1s"), ("b", "short", "10m")])
    assert lines == [
        f"ID    {'WHY':<300}  AGE",
        f"日本  {long}   1s",
        f"b     {'short':<300}  10m",
    ]


def test_on_a_terminal_a_table_is_cut_to_it() -> None:
    lines = Screen(width=30).table(NAMES, [("run-1", "x" * 300, "1s"), ("run-2", "short", "10m")])
    assert [width_of(line) for line in lines] == [30, 30, 30]
    assert lines[1] == "run-1  xxxxxxxxxxxxxxxxx…   1s"


def test_what_names_a_run_is_never_cut() -> None:
    lines = Screen(width=40).table(NAMES, [("r" * 50, "x" * 300, "1s")])
    assert "r" * 50 in lines[1]


def test_a_spare_column_is_left_out_where_there_is_no_place() -> None:
    columns = (Column("id"), Column("name", least=6), Column("payload", least=8, spare=True), Column("age", right=True))
    rows = [("e" * 20, "customer.created", "x" * 300, "1s")]
    wide, narrow = Screen(width=60).table(columns, rows), Screen(width=40).table(columns, rows)
    assert wide[0].split() == ["ID", "NAME", "PAYLOAD", "AGE"]
    assert narrow[0].split() == ["ID", "NAME", "AGE"]
    assert [width_of(line) for line in (*wide, *narrow)] == [60, 60, 40, 40]


def test_a_long_text_is_wrapped_between_words_on_a_terminal_alone() -> None:
    text = "start a worker:  celery -A proj worker  (one that starts sweeps within 10 s)"
    lines = Screen(width=40).wrapped(text, 10)
    assert len(lines) > 1
    assert all(width_of(line) <= 30 for line in lines)
    assert " ".join(lines).split() == text.split()
    assert PIPE.wrapped(text, 10) == [text]


def test_a_column_without_anything_in_it_is_left_out() -> None:
    assert PIPE.table(NAMES, [("a", "", "1s")]) == ["ID  AGE", "a    1s"]


def test_colours_do_not_change_the_places() -> None:
    rows = [(Cell("a", "red", bold=True), Cell("b", dim=True), "c")]
    coloured, plain = Screen(width=40, color=True).table(NAMES, rows), Screen(width=40).table(NAMES, rows)
    assert "\x1b[31m\x1b[1ma" in coloured[1]
    assert plain[1] == "a   b      c"


def test_no_row_is_wider_than_its_screen_whatever_is_in_it() -> None:
    text = "日本\x1b[2Jé " * 30
    for width in range(40, 60):
        for line in Screen(width=width).table(NAMES, [("run", text, "1s")]):
            assert width_of(line) <= width
        assert width_of(Screen(width=width).line(Cell(cleaned(text)), Cell(" and more"))) <= width


def test_what_a_stream_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "123")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Screen.of(io.StringIO()) == Screen(None, False)
    assert Screen.of(Terminal()) == Screen(123, True)
    assert Screen.of(Terminal(), color=False) == Screen(123, False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert Screen.of(Terminal()) == Screen(123, False)
