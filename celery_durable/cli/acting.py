"""``cancel``, ``pause``, ``resume``, ``retry``: of runs by their ids, or of all that a filter holds for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import click

from ..client import BULK_STATUSES
from ..client.words import counted
from ..errors import DurableError
from ..model import Handled, Page, Run
from .listing import AFTER, next_page, table_of_runs
from .session import Session, deed, filters, given_filters, refusing, session
from .tables import Screen, cleaned

__all__ = ["cancel", "pause", "resume", "retry"]

_PREVIEW = 10
_LIMIT = click.option(
    "--limit", type=click.IntRange(1, 1000), default=1000, show_default=True, help="The most runs of a filter."
)
_YES = click.option("--yes", "-y", is_flag=True, help="Do it to all of a filter without asking.")
_RUNS = click.argument("run_ids", metavar="[RUN]...", nargs=-1)


@click.command()
@_RUNS
@filters
@_LIMIT
@AFTER
@click.option("--force", is_flag=True, help="End them where they stand: nothing is cleaned up or undone.")
@_YES
@deed
@session
def cancel(session: Session, run_ids: tuple[str, ...], force: bool, **given: Any) -> None:
    """Cancel runs: they clean up, and are undone.

    Named by their ids, or all that a filter holds for:  durable cancel --task shop.order --since 2h
    """
    _act(session, "cancel", run_ids, given, {"force": force})


@click.command()
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True)
@deed
@session
def pause(session: Session, run_ids: tuple[str, ...], **given: Any) -> None:
    """Stop runs where they stand."""
    _act_on_each(session, "pause", run_ids, _who(given))


@click.command()
@_RUNS
@filters
@_LIMIT
@AFTER
@_YES
@deed
@session
def resume(session: Session, run_ids: tuple[str, ...], **given: Any) -> None:
    """Let paused runs go on.

    Named by their ids, or all that a filter holds for:  durable resume --waiting-on "code:"
    """
    _act(session, "resume", run_ids, given, {})


@click.command()
@_RUNS
@filters
@_LIMIT
@AFTER
@_YES
@deed
@session
def retry(session: Session, run_ids: tuple[str, ...], **given: Any) -> None:
    """Let failed runs go on from their failed step.

    Named by their ids, or all that a filter holds for:  durable retry --task shop.order --search "timed out"
    """
    _act(session, "retry", run_ids, given, {})


def _who(given: Mapping[str, Any]) -> dict[str, Any]:
    """Who does it and why, where that is said."""
    return {name: given[name] for name in ("reason", "by") if given[name] is not None}


def _act(session: Session, verb: str, run_ids: tuple[str, ...], given: Mapping[str, Any], how: dict[str, Any]) -> None:
    which = given_filters(session.context)
    if bool(run_ids) == bool(which):
        what = "either runs by their ids, or a filter such as --task or --status, and not both"
        raise click.UsageError(f"which runs? Name {what}")
    how |= _who(given)
    if run_ids:
        _act_on_each(session, verb, run_ids, how)
    else:
        _act_on_all(session, verb, which, given, how)


# -- By their ids


def _act_on_each(session: Session, verb: str, run_ids: tuple[str, ...], how: dict[str, Any]) -> None:
    session.load_tasks()
    operate: Callable[..., Run] = getattr(session.durable, verb)
    results = []
    for run_id in dict.fromkeys(run_ids):
        try:
            run = operate(run_id, **how)
        except DurableError as error:
            results.append(Handled(run_id=run_id, done=False, why_not=str(error)))
            session.note(f"Error: {error}")
        else:
            results.append(Handled(run_id=run_id, done=True))
            if not session.as_json:
                session.print(_told(verb, run, session.screen))
    if session.as_json:
        session.print_json({"runs": results, "next": None})
    session.end_unless(all(result.done for result in results))


def _told(verb: str, run: Run, screen: Screen) -> str:
    """What has been done to a run, as it stands now."""
    if verb == "cancel" and run.status != "cancelled":
        what = "is being cancelled: its body cleans up first"
    elif verb == "pause":
        what = "is paused: it stands still until it is resumed"
    elif verb == "cancel":
        what = "is cancelled"
    else:
        what = f"goes on ({run.status})" if run.status in ("pending", "suspended", "running") else f"is {run.status}"
    return f"{screen.styled(cleaned(run.id), bold=True)} {what}."


# -- By a filter


def _act_on_all(
    session: Session, verb: str, which: dict[str, Any], given: Mapping[str, Any], how: dict[str, Any]
) -> None:
    place = {"limit": given["limit"], "after": given["after"]}
    with refusing(ValueError):
        found = _meant(session, {"status": BULK_STATUSES[verb], **which}, **place)
    if not found:
        session.note("There is no such run.")
        if session.as_json:
            session.print_json({"runs": [], "next": None})
        return
    if not given["yes"]:
        _ask(session, verb, found)
    # What was started since is not among those that were shown.
    which["until"] = max(run.created_at for run in found) + timedelta(microseconds=1)
    session.load_tasks()
    handled = getattr(session.durable, f"{verb}_all")(**which, **place, **how)
    refused = [item for item in handled if not item.done]
    if session.as_json:
        session.print_json({"runs": handled, "next": handled.next})
    else:
        session.print(f"{_PAST[verb]} {counted(len(handled) - len(refused), 'run')}.")
        for item in refused:
            session.note(f"Error: {item.why_not}")
        next_page(session, handled.next)
    session.end_unless(not refused)


def _meant(session: Session, which: dict[str, Any], limit: int, after: str | None) -> Page[Run]:
    """The runs that are to be acted on. A page of a search may be short, or empty, and not the last."""
    found: list[Run] = []
    while True:
        page = session.durable.runs(**which, limit=limit - len(found), after=after)
        found += page
        after = page.next
        if after is None or len(found) == limit:
            return Page(found, after)


_PAST = {"cancel": "Cancelled", "resume": "Resumed", "retry": "Retried"}


def _ask(session: Session, verb: str, found: Page[Run]) -> None:
    """Show what it is about, and end here unless a person wants it."""
    for line in table_of_runs(session.screen, found[:_PREVIEW]):
        click.echo(line, err=True, color=session.screen.color)
    if len(found) > _PREVIEW:
        click.echo(f"and {len(found) - _PREVIEW:,} more" + (" in this page" if found.next else ""), err=True)
    click.confirm(f"{verb.capitalize()} {counted(len(found), 'run')}?", abort=True, err=True)
