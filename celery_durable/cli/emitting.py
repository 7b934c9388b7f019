"""``emit`` and ``events``."""

from __future__ import annotations

from datetime import datetime
from typing import IO, Any

import click

from ..client.words import ago, clock, counted, value_of
from ..model import EventRecord
from .listing import AFTER, next_page
from .session import Session, json_value, moment_or_ago, refusing, session
from .tables import Cell, Column, cleaned, cut

__all__ = ["emit", "events"]

_PAYLOAD = 200
"""Characters of a payload that a list shows."""


@click.command()
@click.argument("name")
@click.argument("payload", metavar="[PAYLOAD]", required=False, type=json_value)
@click.option("--key", help="What waits are matched by, besides the name.")
@click.option("--event-id", metavar="ID", help="Emitted twice under one id, it counts once.")
@click.option("--file", type=click.File(encoding="utf-8"), help="Read the payload from a file; - is standard input.")
@session
def emit(
    session: Session, name: str, payload: Any, key: str | None, event_id: str | None, file: IO[str] | None
) -> None:
    """Publish an event.

    It wakes the runs that wait for it, and starts those that it triggers.

    PAYLOAD is JSON:  durable emit order.paid '{"amount": 5}' --key order:42
    """
    if file is not None:
        if payload is not None:
            raise click.UsageError("a payload and --file: one of them is enough")
        payload = json_value(file.read())
    with refusing(ValueError, TypeError):
        receipt = session.durable.emit(name, payload, key=key, event_id=event_id)
    if session.as_json:
        session.print_json(receipt)
    elif not session.screen.is_terminal:
        session.print(receipt.id)
    elif receipt.duplicate:
        session.print(f"Event {cleaned(receipt.id)} had been emitted before, and counts once.")
    else:
        session.print(f"Emitted {cleaned(name)} as event {cleaned(receipt.id)}.")


@click.command()
@click.argument("event_id", metavar="[EVENT]", required=False)
@click.option("--name", help="Only events of this name; a trailing * is a wildcard.")
@click.option("--key", help="Only events with this key.")
@click.option("--since", type=moment_or_ago, metavar="WHEN", help='Only those emitted since: "2h", or ISO 8601.')
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="The most to show.")
@AFTER
@session
def events(
    session: Session,
    event_id: str | None,
    name: str | None,
    key: str | None,
    since: datetime | None,
    limit: int,
    after: str | None,
) -> None:
    """The newest events, or all of one.

    What each has woken and started; by its id, also when and what it held.
    """
    if event_id is not None:
        if name or key or since or after:
            raise click.UsageError("an event's id and a filter: one of them is enough")
        _show(session, session.durable.event(event_id))
        return
    with refusing(ValueError):
        page = session.durable.events(name=name, key=key, since=since, limit=limit, after=after)
    if session.as_json:
        session.print_json({"events": page, "next": page.next})
    elif page:
        session.print_table(_COLUMNS, [_row(event) for event in page])
        next_page(session, page.next)
    else:
        session.note("There is no such event.")


_COLUMNS = (
    Column("id"),
    Column("name", least=8),
    Column("key", least=6),
    Column("woke", right=True),
    Column("started", right=True),
    Column("state", least=12),
    Column("payload", least=8, spare=True),
    Column("age", right=True),
)


def _row(event: EventRecord) -> tuple[Cell | str, ...]:
    return (
        Cell(event.id, bold=True),
        event.name,
        event.key or "",
        str(event.woke_total),
        str(event.started_total),
        _state(event),
        cut(value_of(event.payload), _PAYLOAD),
        ago(event.emitted_at),
    )


def _state(event: EventRecord) -> Cell:
    if event.error is not None:
        return Cell(event.error, "red")
    return Cell("", None) if event.dispatched_at else Cell("not dispatched", "yellow")


def _show(session: Session, event: EventRecord) -> None:
    if session.as_json:
        session.print_json(event)
        return
    told = (
        ("name", event.name),
        ("key", event.key or ""),
        ("payload", value_of(event.payload)),
        ("emitted", f"{clock(event.emitted_at)}, {ago(event.emitted_at)} ago"),
        ("by", "" if event.emitted_by is None else f"run {event.emitted_by}"),
        ("dispatched", clock(event.dispatched_at) or "not yet"),
        ("woke", _runs(event.woke, event.woke_total)),
        ("started", _runs(event.started, event.started_total)),
        ("error", event.error or ""),
    )
    session.print(session.screen.styled(cleaned(event.id), bold=True))
    session.print(
        *(f"  {session.screen.styled(name.ljust(10), dim=True)}  {cleaned(text)}" for name, text in told if text)
    )


def _runs(ids: tuple[str, ...], total: int) -> str:
    return f"{counted(total, 'run')}: {', '.join(ids)}" if ids else "no run"
