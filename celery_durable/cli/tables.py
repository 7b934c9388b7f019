"""Text on a terminal and in a pipe: styles, and tables whose columns fit.

On a terminal a table has colours and is cut to the screen. In a pipe it is plain and whole, for ``grep`` and ``awk``.
What comes from a run is somebody else's text: nothing in it moves the cursor or breaks a row.
"""

from __future__ import annotations

import os
import shutil
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any

import click

__all__ = ["Cell", "Column", "Screen", "cleaned", "cut", "width_of"]

_GAP = "  "
_JOINERS = "\u200d\ufe0f"
"""What emojis are put together with: they take no place, and do no harm."""


def width_of(text: str) -> int:
    """How many places a text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_width_of_character(character) for character in text)


def _width_of_character(character: str) -> int:
    if character in _JOINERS or unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def cleaned(text: str) -> str:
    """A text in one line, without what a terminal would obey."""
    text = " ".join(text.split())
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in _JOINERS else repr(character)[1:-1] for character in text
    )


def cut(text: str, width: int) -> str:
    """A text that takes at most so many places, with a sign where something is missing."""
    if len(text) <= width and width_of(text) <= width:
        return text
    if width <= 0:
        return ""
    kept, taken = [], 0
    for character in text:
        taken += _width_of_character(character)
        if taken > width - 1:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…"


@dataclass(frozen=True)
class Cell:
    """A text and how it looks."""

    text: str
    color: str | None = None
    bold: bool = False
    dim: bool = False


@dataclass(frozen=True)
class Column:
    """A column's title. One with a ``least`` width may be cut, the widest of them first; a ``spare`` one is left out
    where there is no place for it."""

    title: str
    right: bool = False
    least: int | None = None
    spare: bool = False


@dataclass(frozen=True)
class Screen:
    """Where text goes: so many places wide if it is a terminal, and with colours if these are wanted."""

    width: int | None = None
    color: bool = False

    @classmethod
    def of(cls, stream: IO[Any], *, color: bool = True) -> Screen:
        """What a stream is. ``NO_COLOR`` in the environment is respected."""
        if not stream.isatty():
            return cls()
        width = shutil.get_terminal_size().columns
        return cls(max(width, 40), color and not os.environ.get("NO_COLOR"))

    @property
    def is_terminal(self) -> bool:
        """Whether a person looks at it."""
        return self.width is not None

    def styled(self, text: str, color: str | None = None, *, bold: bool = False, dim: bool = False) -> str:
        """A text as it looks here."""
        if not text or not self.color or not (color or bold or dim):
            return text
        return click.style(text, fg=color, bold=bold or None, dim=dim or None)

    def line(self, *cells: Cell) -> str:
        """Cells one after the other, as much of them as the screen is wide."""
        parts, taken = [], 0
        for cell in cells:
            text = cell.text if self.width is None else cut(cell.text, self.width - taken)
            taken += width_of(text)
            parts.append(self._look_of(cell, text))
        return "".join(parts)

    def _look_of(self, cell: Cell, text: str) -> str:
        return self.styled(text, cell.color, bold=cell.bold, dim=cell.dim)

    def wrapped(self, text: str, indent: int) -> list[str]:
        """A text as lines that fit beside what is ``indent`` wide; in a pipe it is one."""
        if self.width is None or not text:
            return [text]
        return textwrap.wrap(text, max(self.width - indent, 20), break_long_words=False, break_on_hyphens=False)

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[Cell | str]], *, indent: int = 0) -> list[str]:
        """The lines of a table with its titles, without the columns that are empty."""
        cells = [[_cell_of(value) for value in row] for row in rows]
        filled = [index for index in range(len(columns)) if index == 0 or any(row[index].text for row in cells)]
        cells = [[Cell(column.title.upper(), bold=True) for column in columns], *cells]
        widths = [max(width_of(row[index].text) for row in cells) for index in range(len(columns))]
        if self.width is not None:
            _leave_out_spare(filled, widths, columns, self.width - indent)
        columns, widths = [columns[index] for index in filled], [widths[index] for index in filled]
        table = [[row[index] for index in filled] for row in cells]
        if self.width is not None:
            _shrink(widths, columns, self.width - indent)
        return [" " * indent + self._row(row, columns, widths) for row in table]

    def _row(self, row: Sequence[Cell], columns: Sequence[Column], widths: Sequence[int]) -> str:
        parts = []
        for cell, column, width in zip(row, columns, widths, strict=True):
            text = cell.text if self.width is None else cut(cell.text, width)
            padding = " " * (width - width_of(text))
            look = self._look_of(cell, text)
            parts.append(padding + look if column.right else look + padding)
        return _GAP.join(parts).rstrip()


def _cell_of(value: Cell | str) -> Cell:
    cell = Cell(value) if isinstance(value, str) else value
    text = cleaned(cell.text)
    return cell if text == cell.text else Cell(text, cell.color, cell.bold, cell.dim)


def _leave_out_spare(filled: list[int], widths: list[int], columns: Sequence[Column], available: int) -> None:
    """Take spare columns out, the last one first, until the others fit as narrow as they may be."""
    for index in reversed(filled.copy()):
        narrow = [min(widths[at], columns[at].least or widths[at]) for at in filled]
        if sum(narrow) + len(_GAP) * (len(narrow) - 1) <= available:
            return
        if columns[index].spare:
            filled.remove(index)


def _shrink(widths: list[int], columns: Sequence[Column], available: int) -> None:
    """Take from the widest column that may be cut, until the table fits or nothing is left to take."""
    for index, column in enumerate(columns):
        if column.least is not None:
            widths[index] = min(widths[index], max(available, column.least))
    surplus = sum(widths) + len(_GAP) * (len(widths) - 1) - available
    while surplus > 0:
        able = [
            index for index, column in enumerate(columns) if column.least is not None and widths[index] > column.least
        ]
        if not able:
            return
        widest = max(able, key=lambda index: widths[index])
        widths[widest] -= 1
        surplus -= 1
