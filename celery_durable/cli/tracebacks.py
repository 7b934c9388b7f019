"""The error of a run, as a person looks for it: in the body and in the step that it comes from, and nowhere between."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..client.words import error_of
from ..model import ErrorInfo, Run
from .tables import Screen, cleaned

__all__ = ["told_error"]

_BEGIN = "Traceback (most recent call last):"
_OURS = re.compile(r'  File ".*[/\\]celery_durable[/\\](engine|worker|core|store)[/\\]')
"""The first line of a frame of this package, on whichever machine it was."""


def told_error(run: Run, screen: Screen, *, full: bool = False) -> list[str]:
    """What a run failed of. Where that is the error of a step, its traceback goes on into the step's function.

    With ``full`` the traceback is shown as it was recorded.
    """
    error = run.error
    if error is None:
        return []
    trace = _without_controls(error.traceback or "")
    frames, said = _parted(trace, error)
    if not full:
        frames = [*_of_users(frames), *_of_users(_frames_of_step(run, error))]
    if not said:
        said = [cleaned(error_of(error)), *(cleaned(note) for note in error.notes)]
    return [
        *(screen.styled(f"  {line}", dim=True) for line in frames),
        *(screen.styled(f"  {line}", "red", bold=True) for line in said),
    ]


def _parted(trace: list[str], error: ErrorInfo) -> tuple[list[str], list[str]]:
    """A traceback's frames, and what it says at its end: the error, in as many lines as it has, and its notes."""
    name = error.type.rpartition(".")[2]
    said = [number for number, line in enumerate(trace) if not line.startswith(" ") and name in line]
    return (trace[: said[-1]], trace[said[-1] :]) if said else (trace, [])


def _frames_of_step(run: Run, error: ErrorInfo) -> list[str]:
    """The frames in the function of the step whose error this is."""
    for step in reversed(run.steps):
        if step.error is not None and (step.error.type, step.error.message) == (error.type, error.message):
            frames, _ = _parted(_without_controls(step.error.traceback or ""), step.error)
            return [] if _BEGIN in frames[1:] else frames[1:]  # one with a cause would be a second traceback
    return []


def _of_users(frames: Iterable[str]) -> list[str]:
    kept, ours = [], False
    for line in frames:
        if line.startswith('  File "'):
            ours = _OURS.match(line) is not None
        elif not line.startswith(" "):
            ours = False
        if not ours:
            kept.append(line)
    return kept


def _without_controls(trace: str) -> list[str]:
    """The lines of a traceback, with their indentation."""
    lines = trace.rstrip().splitlines()
    return [line[: len(line) - len(line.lstrip(" "))] + cleaned(line) for line in lines]
