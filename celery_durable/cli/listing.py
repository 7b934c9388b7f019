"""``runs``: which runs there are."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from typing import Any

import click

from ..client.words import ago, state_of
from ..model import Run
from .session import Session, filters, given_filters, refusing, session
from .statuses import status_cell
from .tables import Cell, Column, Screen

__all__ = ["AFTER", "next_page", "runs", "table_of_runs"]

AFTER = click.option("--after", metavar="PLACE", help="Go on where a page has ended.")


@click.command()
@filters
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="The most to show.")
@AFTER
@session
def runs(session: Session, limit: int, after: str | None, **_: Any) -> None:
    """The newest runs.

    What each waits for, or has failed of. Each option narrows it down:

    durable runs --status failed --since 2h --search "timed out"
    """
    with refusing(ValueError):
        page = session.durable.runs(**given_filters(session.context), limit=limit, after=after)
    if session.as_json:
        session.print_json({"runs": page, "next": page.next})
    elif page:
        session.print(*table_of_runs(session.screen, page))
        next_page(session, page.next, short=len(page) < limit)
    elif page.next is not None:
        next_page(session, page.next, short=True)
    else:
        session.note("There is no such run.")


def table_of_runs(screen: Screen, shown: Iterable[Run]) -> list[str]:
    """Runs as the lines of a table."""
    columns = (
        Column("id"),
        Column("task", least=8),
        Column("status"),
        Column("waiting on / error", least=8),
        Column("age", right=True),
    )
    rows = [
        (
            Cell(run.id, bold=True),
            run.task,
            status_cell(run.status, screen),
            Cell(state_of(run), "red" if run.status == "failed" else None),
            ago(run.created_at),
        )
        for run in shown
    ]
    return screen.table(columns, rows)


def next_page(session: Session, place: str | None, short: bool = False) -> None:
    """Say how to go on, where there is more. A page of a search is ``short`` where it has looked far enough."""
    if place is not None:
        what = "There are older runs, not looked into yet." if short else "There are more."
        session.note(f"{what} Go on with the same options and  --after {shlex.quote(place)}")
