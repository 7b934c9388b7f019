"""Where in the user's code something was asked for."""

from __future__ import annotations

import sys
from functools import lru_cache
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
    while frame.f_back is not None and _is_ours(frame.f_code.co_filename):
        frame = frame.f_back
    return Place(frame.f_code, frame.f_lineno)


@lru_cache(maxsize=1024)  # some files are asked for at every step
def _is_ours(file: str) -> bool:
    return file.startswith(_PACKAGE)
