"""A run's steps on one time axis.

Most of the time of most runs is spent on waiting: seconds of work lie days apart. So a stretch of time in which
nothing was under way but sleeps and waits is folded where it is long: it has the same small width whatever its length,
and a mark that says how long it is. Everything else is to scale. Order is kept: what came later is further right.

Places and widths are thousandths of the axis.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Literal

from ..model import FINISHED, Run, StepRecord

__all__ = ["Bar", "Gap", "Row", "Tick", "Timeline", "steady_now", "timeline"]

WIDTH = 1000
_SHORTEST = timedelta(seconds=5)
"""What is never folded: people count such times in one go."""
_MOST_GAPS = 25
_GAP_WIDTH, _ALL_GAPS = 48, 500
_TICKS_APART, _BEFORE_LAST = 220, 440
_QUIET = frozenset({"sleep", "wait", "lock"})
"""Steps that pass without anything being done."""
_NICE = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600)
_DAY = 86400.0

Sort = Literal["work", "quiet", "failed", "backoff", "queued", "body"]


@dataclass(frozen=True)
class Bar:
    """A stretch of time of a row: an attempt, a wait, the time between two attempts."""

    sort: Sort
    since: datetime
    until: datetime
    x: int
    w: int
    is_open: bool = False
    """It goes on."""
    attempt: int | None = None


@dataclass(frozen=True)
class Row:
    """A step with its attempts."""

    step: StepRecord
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Gap:
    """A folded stretch of the axis."""

    x: int
    w: int
    lasting: timedelta


@dataclass(frozen=True)
class Tick:
    """A time that is written at the axis; with its day, where that is another than the one before."""

    x: int
    at: datetime
    text: str
    day: str | None


@dataclass(frozen=True)
class Timeline:
    """All that is drawn."""

    since: datetime
    until: datetime
    run: tuple[Bar, ...]
    rows: tuple[Row, ...]
    gaps: tuple[Gap, ...]
    ticks: tuple[Tick, ...]
    can_fold: bool
    """Whether there is time that is folded, or would be."""


@dataclass(frozen=True)
class _Span:
    sort: Sort
    since: datetime
    until: datetime
    is_open: bool = False
    attempt: int | None = None


def timeline(run: Run, steps: Sequence[StepRecord], now: datetime, *, is_whole: bool, folded: bool = True) -> Timeline:
    """These steps of a run, seen at ``now``. Where they are not all, the axis is that of them alone."""
    spans = [_spans_of(step, now) for step in steps]
    of_run = _spans_of_run(run, now)
    told = [span for row in spans for span in row]
    edges = [
        moment for span in (told + of_run if is_whole or not told else told) for moment in (span.since, span.until)
    ]
    since, until = min(edges), max(edges)
    of_run = [span for span in of_run if span.since <= until and span.until >= since]
    scale = _Scale(since, until, [*told, *of_run], folded)
    return Timeline(
        since=since,
        until=until,
        run=tuple(scale.bar(span) for span in of_run),
        rows=tuple(Row(step, tuple(map(scale.bar, row))) for step, row in zip(steps, spans, strict=True)),
        gaps=scale.gaps,
        ticks=tuple(_ticks(scale)),
        can_fold=scale.can_fold,
    )


def steady_now(run: Run, now: datetime) -> datetime:
    """About now, a little later: the same for as long as it makes no difference to look at. A page that is looked at
    live changes when this does."""
    elapsed = (now - run.created_at).total_seconds()
    unit = 1.0
    while unit * 64 < elapsed:
        unit *= 2
    return run.created_at + timedelta(seconds=unit * (max(0, elapsed) // unit + 1))


# -- What there is to draw


def _spans_of(step: StepRecord, now: datetime) -> list[_Span]:
    """A step's attempts, the times between them, and its waiting."""
    spans = [
        _Span("failed", tried.started_at, tried.finished_at, attempt=tried.number)
        for tried in step.tries
        if tried.started_at is not None and tried.finished_at is not None
    ]
    began = step.started_at or step.finished_at
    if began is not None:
        spans += _last_of(step, began, now)
    ordered = sorted(spans, key=lambda span: span.since)
    between = [_Span("backoff", one.until, other.since) for one, other in pairwise(ordered) if one.until < other.since]
    return sorted([*ordered, *between], key=lambda span: (span.since, span.until))


def _last_of(step: StepRecord, began: datetime, now: datetime) -> list[_Span]:
    sort: Sort = "quiet" if step.kind in _QUIET else "work"
    attempt = step.attempts if step.attempts > 1 or step.status == "failed" else None
    if step.status == "waiting" and step.error is not None and step.finished_at is not None:
        failed = _Span("failed", began, step.finished_at, attempt=step.attempts)
        known = any(tried.number == step.attempts for tried in step.tries)
        return [*([] if known else [failed]), _Span("backoff", step.finished_at, max(step.finished_at, now), True)]
    if step.status in ("waiting", "started"):
        return [_Span(sort, began, max(began, now), True, attempt)]
    ended = max(began, step.finished_at or began)
    return [_Span("failed" if step.status == "failed" else sort, began, ended, attempt=attempt)]


def _spans_of_run(run: Run, now: datetime) -> list[_Span]:
    """The run's own bar: until a worker took it, and from then on."""
    is_over = run.status in FINISHED and run.finished_at is not None
    end = run.finished_at if is_over and run.finished_at is not None else max(now, run.created_at)
    begin = min(run.started_at or end, end)
    queued = [_Span("queued", run.created_at, begin, run.started_at is None and not is_over)]
    body = [_Span("body", begin, end, not is_over)] if run.started_at is not None else []
    return [span for span in queued if span.since < span.until or not body] + body


# -- The axis


class _Scale:
    """Where a time lies on the axis."""

    def __init__(self, since: datetime, until: datetime, spans: Iterable[_Span], folded: bool) -> None:
        moments = sorted(
            {since, until, *(m for span in spans for m in (span.since, span.until) if since <= m <= until)}
        )
        stretches = list(pairwise(moments))
        idle = _idle(stretches, spans)
        long = _long(stretches, idle)
        self.can_fold = bool(long)
        self._moments = moments
        self._folded = long if folded else frozenset()
        self._places = self._measure(stretches)
        self.gaps = tuple(
            Gap(self._at(place), self._at(place + 1) - self._at(place), stretches[place][1] - stretches[place][0])
            for place in sorted(self._folded)
        )

    def _measure(self, stretches: list[tuple[datetime, datetime]]) -> list[float]:
        """Where each moment lies: folded stretches share a part of the axis, the others what is left, by length."""
        rest = sum(
            (end - begin).total_seconds() for place, (begin, end) in enumerate(stretches) if place not in self._folded
        )
        count = len(self._folded)
        gap = 0.0 if not count else WIDTH / count if not rest else min(_GAP_WIDTH, _ALL_GAPS / count)
        unit = (WIDTH - gap * count) / rest if rest else 0.0
        places = [0.0]
        for place, (begin, end) in enumerate(stretches):
            width = gap if place in self._folded else (end - begin).total_seconds() * unit
            places.append(min(float(WIDTH), places[-1] + width))
        return places

    def _at(self, place: int) -> int:
        return round(self._places[place])

    def place(self, moment: datetime) -> int:
        """Where a time lies."""
        moments = self._moments
        after = bisect_right(moments, moment)
        if after == 0:
            return 0
        if after == len(moments):
            return self._at(len(moments) - 1)
        begin, end = moments[after - 1], moments[after]
        left, right = self._places[after - 1], self._places[after]
        return round(left + (right - left) * ((moment - begin) / (end - begin)))

    def bar(self, span: _Span) -> Bar:
        """A span where it lies."""
        x = self.place(span.since)
        return Bar(span.sort, span.since, span.until, x, self.place(span.until) - x, span.is_open, span.attempt)

    def to_scale(self) -> list[tuple[datetime, datetime]]:
        """The stretches between folds."""
        found: list[tuple[datetime, datetime]] = []
        for place, (begin, end) in enumerate(pairwise(self._moments)):
            if place in self._folded:
                continue
            if found and found[-1][1] == begin:
                found[-1] = (found[-1][0], end)
            else:
                found.append((begin, end))
        return found

    @property
    def edges(self) -> list[datetime]:
        """The first moment and the last, and where each fold ends."""
        return [self._moments[0], self._moments[-1], *(self._moments[place + 1] for place in sorted(self._folded))]


def _idle(stretches: list[tuple[datetime, datetime]], spans: Iterable[_Span]) -> set[int]:
    """Those in which nothing was under way."""
    busy = sorted((span.since, span.until) for span in spans if span.sort in ("work", "failed"))
    idle, place, end = set(), 0, datetime.min.replace(tzinfo=timezone.utc)
    for number, (begin, _) in enumerate(stretches):
        while place < len(busy) and busy[place][0] <= begin:
            end = max(end, busy[place][1])
            place += 1
        if end <= begin:
            idle.add(number)
    return idle


def _long(stretches: list[tuple[datetime, datetime]], idle: set[int]) -> frozenset[int]:
    """The idle ones that are worth a fold: long, and long beside what was done."""
    lengths = {number: stretches[number][1] - stretches[number][0] for number in idle}
    busy = sum((end - begin for number, (begin, end) in enumerate(stretches) if number not in idle), timedelta())
    limit = max(_SHORTEST, busy / 4)
    long = [number for number, length in lengths.items() if length > limit]
    return frozenset(sorted(long, key=lambda number: (-lengths[number], number))[:_MOST_GAPS])


# -- What is written at it


def _ticks(scale: _Scale) -> Iterable[Tick]:
    wanted = [*scale.edges, *(moment for begin, end in scale.to_scale() for moment in _nice(scale, begin, end))]
    last = scale.place(scale.edges[1])
    chosen: dict[int, datetime] = {}
    for moment in wanted:
        x = scale.place(moment)
        # What is written at the end reaches to the left.
        if all(abs(x - other) >= (_BEFORE_LAST if other == last > 0 else _TICKS_APART) for other in chosen):
            chosen[x] = moment
    seconds = sum((end - begin).total_seconds() for begin, end in scale.to_scale())
    fine = 0 < seconds < len(chosen)
    day = None
    for x, moment in sorted(chosen.items()):
        utc = moment.astimezone(timezone.utc)
        text = utc.strftime("%H:%M:%S.%f")[:-3] if fine else utc.strftime("%H:%M:%S")
        today = f"{utc.day} {utc:%b}"
        yield Tick(x, moment, text, today if today != day else None)
        day = today


def _nice(scale: _Scale, begin: datetime, end: datetime) -> Iterable[datetime]:
    """Round times in a stretch that is to scale."""
    width, lasting = scale.place(end) - scale.place(begin), (end - begin).total_seconds()
    if width < _TICKS_APART or not lasting:
        return
    least = lasting * _TICKS_APART / width
    unit = next((unit for unit in _NICE if unit >= least), None) or _DAY * (least // _DAY + 1)
    first = begin.timestamp() // unit + 1
    for number in range(WIDTH // _TICKS_APART + 1):
        moment = datetime.fromtimestamp((first + number) * unit, timezone.utc)
        if moment >= end:
            return
        yield moment
