"""Where in the user's code something was asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from types import CodeType
from typing import NamedTuple

__all__ = ["Place", "caller"]

_PACKAGE = str(Path(__file__).resolve().parent.parent)


class Place(NamedTuple):
    """A line of code. Made at every step, so it is formatted only when an error needs it."""

    code: CodeType
    line: int

    def __str__(self) -> str:
        return f"{self.code.co_filename}, line {self.line}, in {self.code.co_name}"


def caller() -> Place:
    """The innermost line that is not of this package."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    return Place(frame.f_code, frame.f_lineno)
