"""The durable tasks, and one of them: what starts it, how it is retried, how its runs went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Response

from ...client import COUNTED_AT_MOST
from ...client.words import span
from ...errors import TaskNotFound
from ...model import Activity, Period
from ..forms import Field, Form
from ..templating import STATUSES
from ..visit import Visit

__all__ = ["task", "tasks"]

_EVERY = 15_000
"""Milliseconds until a page with so many figures is asked for again."""
_LATEST = 5
_HEIGHT = 100
"""Units that the tallest bar has."""
_WIDTH = 10
_ORDER = ("completed", "failed", "cancelled", "paused", "suspended", "running", "pending")
"""Of the parts of a bar, from below."""


class Range(NamedTuple):
    """A stretch of time to look at, and the periods that it is parted into."""

    name: str
    long: str
    periods: int


RANGES = (
    Range("24h", "the last 24 hours", 24),
    Range("7d", "the last 7 days", 28),
    Range("30d", "the last 30 days", 30),
)


def tasks(visit: Visit) -> Response:
    """All tasks of this process, with their latest run and how many runs there are."""
    rows = []
    for info in visit.durable.tasks():
        counts = visit.durable.counts(task=info.name)
        latest = visit.durable.runs(task=info.name, limit=1)
        rows.append((info, {name: _count(counts[name]) for name in STATUSES}, latest[0] if latest else None))
    return visit.render("tasks.html", rows=rows, every=_EVERY)


def task(visit: Visit, name: str) -> Response:
    """One task. One that this process does not know has its runs alone, if there are any."""
    try:
        info = visit.durable.task(name)
    except TaskNotFound:
        info = None
    latest = visit.durable.runs(task=name, limit=_LATEST)
    if info is None and not latest:
        visit.durable.task(name)  # raises, and says which there are
    wanted = visit.args.get("span", "24h")
    chosen = next((each for each in RANGES if each.name == wanted), None)
    if chosen is None:
        raise BadRequest(f"There is no span {wanted!r}: {', '.join(each.name for each in RANGES)}.")
    activity = visit.durable.activity(task=name, since=chosen.name, periods=chosen.periods)
    counts = visit.durable.counts(task=name)
    return visit.render(
        "task.html",
        name=name,
        info=info,
        parameters=list(_parameters(info.parameters)) if info is not None else [],
        latest=latest,
        counts={status: _count(counts[status]) for status in STATUSES},
        ranges=RANGES,
        chosen=chosen,
        activity=activity,
        chart=Chart.of(activity),
        order=_ORDER,
        present={status for period in activity.periods for status, number in period.statuses.items() if number},
        every=_EVERY,
    )


def _count(number: int) -> str:
    return f"{number:,}" if number < COUNTED_AT_MOST else f"{COUNTED_AT_MOST:,}+"


# ------------------------------------------------------------------- parameters


def _parameters(schema: Mapping[str, Any]) -> Iterator[tuple[Field, str]]:
    """The arguments, and what each has to be, in words."""
    for field in Form(schema).fields:
        yield field, _type_says(schema["properties"].get(field.path[-1], {}), field)


_KINDS = {
    "text": "text", "secret": "secret text", "integer": "whole number", "number": "number", "decimal": "number or text",
    "boolean": "yes or no", "date": "date", "datetime": "point in time", "time": "time of day", "uuid": "UUID",
}  # fmt: skip


def _type_says(schema: Mapping[str, Any], field: Field) -> str:
    if field.kind == "choice":
        says = " or ".join(shown for value, shown in field.options if value != "null")
    elif field.kind == "object":
        says = f"{{{', '.join(inner.path[-1] for inner in field.fields)}}}"
    elif field.kind == "json":
        says = {"array": "list", "object": "mapping"}.get(str(schema.get("type")), "anything" if not schema else "JSON")
    else:
        says = _KINDS[field.kind]
    return f"{says}, or nothing" if field.nullable else says


# ------------------------------------------------------------------------ chart


@dataclass(frozen=True)
class Bar:
    """A period in the chart: its parts from below, and where its latencies are; measured from above."""

    period: Period
    x: int
    total: int
    parts: tuple[tuple[str, float, float], ...]
    """Status, top and height."""
    p50: float | None
    p95: float | None

    @property
    def middle(self) -> int:
        """Where its latencies are drawn."""
        return self.x + _WIDTH // 2

    @property
    def label(self) -> str:
        """When it begins."""
        return _label(self.period.since)

    @property
    def title(self) -> str:
        """What is said of it where somebody points at it."""
        told = [f"{number:,} {name}" for name, number in self.period.statuses.items() if number]
        for name, value in (("p50", self.period.p50), ("p95", self.period.p95)):
            if value is not None:
                told.append(f"{name} {span(timedelta(seconds=value))}")
        return f"{self.label} to {_label(self.period.until)} UTC: {', '.join(told) or 'no run'}"


@dataclass(frozen=True)
class Chart:
    """Runs and latencies over time, drawn to scale."""

    bars: tuple[Bar, ...]
    total: int
    most: int
    longest: float | None
    """Of the 95th percentiles, in seconds."""

    @classmethod
    def of(cls, activity: Activity) -> Chart:
        """The chart of what happened."""
        periods = activity.periods
        totals = [sum(period.statuses.values()) for period in periods]
        most = max(totals, default=0)
        longest = max((period.p95 for period in periods if period.p95 is not None), default=None)
        bars = tuple(_bar(period, place, most, longest) for place, period in enumerate(periods))
        return cls(bars, sum(totals), most, longest)

    @property
    def width(self) -> int:
        """Units from the first period to the last."""
        return _WIDTH * len(self.bars)

    def path(self, name: str) -> str:
        """The percentiles from period to period, as an SVG path that is broken where nothing completed."""
        levels = [getattr(bar, name) for bar in self.bars]
        told = []
        for bar, level, before in zip(self.bars, levels, [None, *levels], strict=False):
            if level is not None:
                told.append(f"{'M' if before is None else 'L'}{bar.middle} {level}")
        return "".join(told)

    def dots(self, name: str) -> str:
        """Each of them as a line of no length, which is drawn as a dot whatever the chart is stretched to."""
        return "".join(f"M{bar.middle} {getattr(bar, name)}h0" for bar in self.bars if getattr(bar, name) is not None)


def _bar(period: Period, place: int, most: int, longest: float | None) -> Bar:
    parts, top = [], float(_HEIGHT)
    for status in _ORDER:
        if number := period.statuses.get(status, 0):
            height = max(round(_HEIGHT * number / most, 2), 0.8)
            top = round(top - height, 2)
            parts.append((status, max(top, 0.0), height))
    total = sum(period.statuses.values())
    return Bar(period, _WIDTH * place, total, tuple(parts), _level(period.p50, longest), _level(period.p95, longest))


def _level(seconds: float | None, longest: float | None) -> float | None:
    if seconds is None or longest is None:
        return None
    return round(_HEIGHT * (1 - (seconds / longest if longest else 0.0)) * 0.96 + 2, 2)


def _label(at: datetime) -> str:
    return at.strftime("%b %d %H:%M")
