"""Which of a run's steps are shown: all of a short run, else some that follow each other, and the way to the others."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from ..model import FINISHED, Run, StepRecord

__all__ = ["Window", "failed_steps", "open_steps", "window"]

SIZE = 200


@dataclass(frozen=True)
class Window:
    """Steps that follow each other, and where they stand among all."""

    steps: tuple[StepRecord, ...]
    first: int
    """The place of the first one, from 0 on."""
    total: int
    earlier: int | None
    """The position from which the window before it begins; ``None``: this is the first."""
    later: int | None
    last: bool
    """Whether it ends with the last step there is, and so goes on with the run."""

    @property
    def is_whole(self) -> bool:
        return len(self.steps) == self.total


def window(steps: Sequence[StepRecord], start: int | None = None, size: int = SIZE) -> Window:
    """The steps from the position ``start`` on; the last ones if nothing is said."""
    total = len(steps)
    first = total - size if start is None else bisect_left(steps, start, key=lambda step: step.position)
    first = max(0, min(first, total - 1))
    shown = tuple(steps[first : first + size])
    end = first + len(shown)
    return Window(
        shown,
        first,
        total,
        earlier=steps[max(0, first - size)].position if first else None,
        later=steps[end].position if end < total else None,
        last=end == total,
    )


def open_steps(run: Run) -> list[StepRecord]:
    """The steps that are under way: where the run is."""
    if run.status in FINISHED:
        return []
    return [step for step in run.steps if step.status in ("waiting", "started")]


def failed_steps(run: Run) -> list[StepRecord]:
    """The steps that failed for good, whether or not the body went on."""
    return [step for step in run.steps if step.status == "failed"]
