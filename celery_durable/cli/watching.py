"""``watch``: a run as it goes on.

What is over scrolls by, and stays: a line for each step that has ended. On a terminal the last lines are drawn anew
all the time: how the run stands, how far it has come, and which steps are under way.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Literal

import click
from sqlalchemy.exc import DBAPIError

from ..client.words import ago, counted, now, span, state_of, step_says, took, value_of
from ..model import FINISHED, Progress, Run, StepRecord
from .session import Session, session
from .statuses import status_cell
from .tables import Cell, Screen, cleaned
from .tracebacks import told_error

__all__ = ["watch"]

_ASK_EVERY = 0.5
_DRAW_EVERY = 0.1
_SHARE = 10
"""A run whose reading takes long is read as much more seldom: a tenth of the time is spent on it at most."""
_PATIENCE = 60.0
"""Seconds for which a database may be away."""
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_BAR = 40
_UNDER_WAY = 4


@click.command()
@click.argument("run_id", metavar="RUN")
@session
def watch(session: Session, run_id: str) -> None:
    """Follow a run until it ends.

    Exits with 0 if it is completed, and with 1 otherwise.

    With --json: an object for each step that ends, one a line, and at last one for the run.
    """
    watched, teller, live = _Watched(session, run_id), _Teller(session), _Live(session.screen)
    try:
        while True:
            live.erase()
            watched.say_if_away()
            teller.tell(watched.run)
            if watched.run.status in FINISHED:
                break
            live.draw_until(time.monotonic() + watched.pause, watched.run)
            watched.read()
    except KeyboardInterrupt:
        live.erase()
        session.note(f"{run_id} is {watched.run.status}, and goes on without being watched.")
        session.end_unless(False)
    finally:
        live.close()
    teller.end(watched.run)
    session.end_unless(watched.run.status == "completed")


class _Watched:
    """The run as it was read last, and how long to wait before the next time."""

    def __init__(self, session: Session, run_id: str) -> None:
        self._session = session
        self.run = session.durable.get(run_id)
        self.pause = _ASK_EVERY
        self._answered_at = time.monotonic()
        self._away: Literal["no", "yes", "told"] = "no"

    def read(self) -> None:
        """Ask for it. A database that is away for a while ends nothing: the run is as it was."""
        asked_at = time.monotonic()
        try:
            self.run = self._session.durable.get(self.run.id)
        except DBAPIError:
            if asked_at - self._answered_at > _PATIENCE:
                raise
            self._away = "yes" if self._away == "no" else self._away
        else:
            self._away = "no"
            self._answered_at = time.monotonic()
            self.pause = max(_ASK_EVERY, _SHARE * (self._answered_at - asked_at))

    def say_if_away(self) -> None:
        """Say it once, when nothing is drawn."""
        if self._away == "yes":
            self._session.note("The database does not answer; it is asked again.")
            self._away = "told"


class _Teller:
    """Tells what is over: each step once, and at last the run."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._screen = session.screen
        self._told: set[tuple[object, ...]] = set()

    def tell(self, run: Run) -> None:
        """Tell of the steps that have ended since."""
        for step in self._news(run):
            if self._session.as_json:
                click.echo('{"step":' + step.model_dump_json() + "}")
            else:
                self._session.print(_line_of(step, self._screen))

    def _news(self, run: Run) -> list[StepRecord]:
        # A step is done again after a retry, and after the run has continued as new.
        ended = {
            (run.generation, step.id, step.status, step.finished_at): step
            for step in run.steps
            if step.status in FINISHED
        }
        fresh = [step for key, step in ended.items() if key not in self._told]
        self._told |= ended.keys()
        return sorted(fresh, key=lambda step: (step.finished_at or now(), step.position))

    def end(self, run: Run) -> None:
        """Tell how the run has ended."""
        if self._session.as_json:
            click.echo('{"run":' + run.model_dump_json() + "}")
            return
        screen, spent = self._screen, took(run)
        status = status_cell(run.status, screen)
        parts = [Cell(status.text, status.color, bold=True)]
        if spent is not None:
            parts.append(Cell(f" after {span(spent)}, {counted(len(run.steps), 'step')}", dim=True))
        if run.status == "completed":
            parts.append(Cell(f"  {cleaned(value_of(run.result))}"))
        elif run.status == "cancelled":
            parts.append(Cell(f"  {cleaned(state_of(run))}"))
        self._session.print(screen.line(*parts))
        if run.status == "failed":
            self._session.print(*told_error(run, screen))


def _line_of(step: StepRecord, screen: Screen) -> str:
    """A step that has ended: when, how, how long it took, and what came of it."""
    status = status_cell(step.status, screen)
    at = f"{step.finished_at or now():%H:%M:%S}"
    tries = f" (try {step.attempts})" if step.attempts > 1 else ""
    return screen.line(
        Cell(at, dim=True),
        Cell(f"  {status.text:<{11 if screen.is_terminal else 9}}", status.color),
        Cell(f"  {span(took(step)):>6}", dim=True),
        Cell(f"  {cleaned(step.id)}", bold=True),
        Cell(tries, "yellow"),
        Cell(f"  {cleaned(step_says(step))}" if step_says(step) else "", "red" if step.status == "failed" else None),
    )


class _Live:
    """The lines at the end of a terminal that are drawn anew. Elsewhere there are none."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._drawn = 0
        self._frames = itertools.cycle(_SPINNER)
        if screen.is_terminal:
            _order("\x1b[?25l")  # no cursor

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._screen.is_terminal:
            _order("\x1b[?25h")

    def draw_until(self, end: float, run: Run) -> None:
        """Show how the run stands until it is asked for again."""
        if not self._screen.is_terminal:
            time.sleep(max(0.0, end - time.monotonic()))
            return
        while True:
            self.erase()
            lines = list(self._lines(run))
            click.echo("\n".join(lines), color=self._screen.color)
            self._drawn = len(lines)
            left = end - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(_DRAW_EVERY, left))

    def erase(self) -> None:
        """Take away what is drawn."""
        if self._drawn:
            _order(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def _lines(self, run: Run) -> Iterator[str]:
        screen = self._screen
        status = status_cell(run.status, screen)
        sign = next(self._frames) if run.status in ("running", "pending") else status.text[0]
        ended = sum(step.status in FINISHED for step in run.steps)
        state = state_of(run.model_copy(update={"progress": None}))
        yield ""
        yield screen.line(
            Cell(f"{sign} {run.status}", status.color, bold=True),
            Cell(f"  {cleaned(run.id)}", bold=True),
            Cell(
                f"  {cleaned(run.task)}, {counted(ended, 'step')} done, {ago(run.started_at or run.created_at)}",
                dim=True,
            ),
        )
        if state:
            yield screen.line(Cell(f"  {cleaned(state)}", "yellow" if run.status == "paused" else None))
        if run.progress is not None:
            yield bar(run.progress, screen)
        under_way = [step for step in run.steps if step.status not in FINISHED]
        if len(under_way) == 1 and run.status != "running":
            return  # what the run waits for is told already
        for step in under_way[-_UNDER_WAY:]:
            yield self._under_way(step)
        if len(under_way) > _UNDER_WAY:
            yield screen.line(Cell(f"  and {counted(len(under_way) - _UNDER_WAY, 'step')} more under way", dim=True))

    def _under_way(self, step: StepRecord) -> str:
        status = status_cell(step.status, self._screen)
        failed = step.error is not None
        return self._screen.line(
            Cell(f"  {status.text[0]} {cleaned(step.id)}", status.color),
            Cell(f"  try {step.attempts}" if step.attempts > 1 or failed else "", "yellow"),
            Cell(f"  {cleaned(step_says(step))}", "yellow" if failed else None, dim=not failed),
        )


def _order(code: str) -> None:
    """What a terminal obeys, also one without colours."""
    click.echo(code, nl=False, color=True)


def bar(progress: Progress, screen: Screen) -> str:
    """How far a run has come by what it says; a bar where that is a number of a total."""
    note = f"  {cleaned(progress.note)}" if progress.note else ""
    share = share_of(progress)
    if share is None:
        said = "" if progress.value is None else cleaned(str(progress.value))
        return screen.line(Cell(f"  {said}", "cyan"), Cell(note))
    width = min(_BAR, max(10, (screen.width or 80) // 2))
    filled = round(share * width)
    return screen.line(
        Cell("  " + "━" * filled, "green" if share == 1 else "cyan"),
        Cell("━" * (width - filled), dim=True) if screen.color else Cell("─" * (width - filled)),
        Cell(f"  {share:4.0%}", bold=True),
        Cell(f"  {progress.value} of {progress.total}{note}"),
    )


def share_of(progress: Progress) -> float | None:
    """A progress as a number between 0 and 1, where it is one."""
    value, total = progress.value, progress.total
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(total, bool) or not isinstance(total, (int, float)) or not total > 0:
        return None
    return float(min(1.0, max(0.0, value / total)))
