"""``stats``, ``prune``, ``migrate``, ``check``: what is about all runs."""

from __future__ import annotations

from typing import get_args

import click

from ..client.words import counted
from ..model import Misfit, RunStatus, Stats
from .session import Session, deed, duration, session
from .statuses import status_cell
from .tables import Cell, Column, Screen, cleaned

__all__ = ["check", "migrate", "prune", "stats"]

_STATUSES = get_args(RunStatus)


@click.command()
@session
def stats(session: Session) -> None:
    """How many runs there are, and what is behind."""
    found = session.durable.stats()
    if session.as_json:
        session.print_json(found)
        return
    # A terminal is narrow, and a program counts columns.
    statuses = [status for status in _STATUSES if found.statuses[status] or not session.screen.is_terminal]
    columns = [
        Column("task", least=8),
        *(Column(status, right=True) for status in statuses),
        Column("all", right=True),
    ]
    rows = [
        (Cell(task, bold=True), *(_number(counts.get(status, 0), status) for status in statuses), _total(counts))
        for task, counts in sorted(found.tasks.items())
    ]
    if len(rows) > 1:
        totals = (_number(found.statuses[status], status) for status in statuses)
        rows.append((Cell("all", dim=True), *totals, _total(found.statuses)))
    if rows:
        session.print_table(columns, rows)
    else:
        session.print("No runs.")
    session.print("", *_behind(found, session.screen))


def _number(runs: int, status: str) -> Cell:
    return Cell(f"{runs:,}" if runs else "-", status_cell(status, Screen()).color if runs else None, dim=not runs)


def _total(counts: dict[str, int]) -> Cell:
    return Cell(f"{sum(counts.values()):,}", bold=True)


def _behind(found: Stats, screen: Screen) -> list[str]:
    late = found.lag >= 60
    told = (
        ("sweeper", found.sweeper or "none: nothing wakes by time", found.sweeper is None),
        ("lag", f"{found.lag:.1f}s behind with what is due" if found.lag else "nothing is late", late),
        ("in line", f"{counted(found.queued, 'run')} because of a concurrency", False),
        ("events", f"{found.undispatched_events:,} not dispatched yet", False),
    )
    return [
        f"{screen.styled(name.ljust(8), dim=True)}  {screen.styled(text, 'yellow' if bad else None)}"
        for name, text, bad in told
    ]


@click.command()
@click.option(
    "--older-than", type=duration, metavar="DURATION", default="30d", show_default=True, help="How long ago they ended."
)
@click.option("--yes", "-y", is_flag=True, help="Do it without asking.")
@deed
@session
def prune(session: Session, older_than: str, yes: bool, reason: str | None, by: str | None) -> None:
    """Delete finished runs, with all their rows."""
    if not yes:
        asked = f"Delete all runs that ended more than {older_than} ago, with their steps and logs?"
        click.confirm(asked, abort=True, err=True)
    deleted = session.durable.prune(older_than, reason=reason, by=by)
    if session.as_json:
        session.print_json({"deleted": deleted})
    else:
        session.print(f"Deleted {counted(deleted, 'run')} that ended more than {older_than} ago.")


@click.command()
@session
def migrate(session: Session) -> None:
    """Make or upgrade the tables."""
    changed = session.durable.migrate()
    if session.as_json:
        session.print_json({"changed": changed})
    else:
        session.print("The durable tables are made." if changed else "The durable tables are up to date.")


@click.command()
@session
def check(session: Session) -> None:
    """Which runs under way does this code break?

    They are replayed against it, and nothing is done: no step is executed, and nothing is written.
    """
    session.load_tasks()
    found = session.durable.check()
    if session.as_json:
        session.print_json(found)
    else:
        for misfit in found.misfits:
            session.print(_told(misfit, session.screen))
        session.print(
            f"{counted(found.checked, 'run')} under way, {len(found.misfits)} of which this code does not fit."
        )
    session.end_unless(not found.misfits)


def _told(misfit: Misfit, screen: Screen) -> str:
    why = "\n    ".join(cleaned(line) for line in misfit.why.splitlines())
    return f"{screen.styled(cleaned(misfit.run_id), bold=True)}  {cleaned(misfit.task)}  {misfit.status}\n    {why}"
