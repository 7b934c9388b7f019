"""Whether runs go on as they should: who executes them, who sweeps, what waits, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from werkzeug.wrappers import Response

from ...client import COUNTED_AT_MOST
from ...client.words import now
from ...core.duration import SECOND, describe
from ...model import LateRun, Workload
from ..visit import Visit

__all__ = ["workers"]

_LATE = 10.0
"""Seconds after which what is due counts as late: longer than a message that is on its way takes."""
_BAD = 60.0
_SKEW = 2.0
_SHOWN = 20

State = Literal["ok", "warning", "broken"]


@dataclass(frozen=True)
class Figure:
    """A figure, what it means, and what to do where it is bad."""

    id: str
    name: str
    shown: str | datetime
    """A time is shown as how long ago it is."""
    says: str
    state: State = "ok"
    link: str | None = None


def workers(visit: Visit) -> Response:
    """The page."""
    load = visit.durable.workload()
    skew = (load.clock - now()).total_seconds()
    late = [run for run in visit.durable.health().late if run.late >= _LATE]
    return visit.render(
        "workers.html",
        load=load,
        figures=[
            _sweeper(load),
            _lag(load),
            _due(visit, load),
            _asleep(visit, load),
            _queued(visit, load),
            _events(visit, load),
            _clock(skew),
        ],
        late=[(run, _since(load.clock, run), _advice(run)) for run in late[:_SHOWN]],
        late_total=f"{len(late):,}" + ("+" if len(late) >= 1000 else ""),
    )


def _sweeper(load: Workload) -> Figure:
    if load.sweeper is None:
        return Figure(
            "sweeper", "Sweeper", "none",
            "Nothing wakes by time, and no dead worker's run is taken over. Start a worker: celery -A proj worker.",
            "broken",
        )  # fmt: skip
    return Figure(
        "sweeper",
        "Sweeper",
        load.sweeper,
        "The worker that wakes what is due. If it dies, another one takes over within seconds.",
    )


def _lag(load: Workload) -> Figure:
    if load.lag < 1:
        return Figure("lag", "Lag", "none", "Everything that is due has been taken, or is only just due.")
    state: State = "broken" if load.lag >= _BAD else "warning" if load.lag >= _LATE else "ok"
    says = "Since then the first of the due runs waits to be taken."
    if state != "ok":
        says += " If it grows, add workers, or see below what is late and why."
    return Figure("lag", "Lag", _second(load.clock - timedelta(seconds=load.lag)), says, state)


def _due(visit: Visit, load: Workload) -> Figure:
    says = "Runs whose time has come and that no worker has: the length of the queue. If it stays long, add workers."
    return Figure("due", "Due", _count(load.due), says)


def _asleep(visit: Visit, load: Workload) -> Figure:
    says = "Runs that wait for a time to come. They cost rows and nothing else: any number of them is fine."
    return Figure("asleep", "Asleep", _count(load.asleep), says, link=visit.url("runs", {"status": "suspended"}))


def _queued(visit: Visit, load: Workload) -> Figure:
    says = "Runs that stand in line because of their task's concurrency. If the line only grows, raise the limit."
    return Figure("queued", "In line", _count(load.queued), says, link=visit.url("tasks"))


def _events(visit: Visit, load: Workload) -> Figure:
    state: State = "broken" if load.event_lag >= _BAD else "warning" if load.event_lag >= _LATE else "ok"
    says = "Events that nobody has looked at yet: whom they wake and start."
    if state != "ok":
        says += " The first of them is late: see that workers run, and that they take the default queue."
    return Figure("events", "Undispatched events", _count(load.undispatched_events), says, state, visit.url("events"))


def _clock(skew: float) -> Figure:
    if abs(skew) < _SKEW:
        return Figure(
            "clock", "Clocks", "agree", "The database's clock, which decides what is due, and that of this process."
        )
    state: State = "broken" if abs(skew) >= _BAD / 2 else "warning"
    told = f"{describe(round(abs(skew)) * SECOND)} {'ahead' if skew > 0 else 'behind'}"
    says = "So far is the database's clock, which decides what is due, from that of this process. Set both by NTP."
    return Figure("clock", "Clocks", told, says, state)


def _advice(run: LateRun) -> str:
    if run.status == "running":
        return "its worker is gone, and no other has taken it over: see that one sweeps"
    if run.sends >= 4:
        return f"sent {run.sends} times and taken by no worker: see that one takes its queue"
    return "not taken yet: a worker sends it again"


def _since(clock: datetime, run: LateRun) -> datetime:
    return _second(clock - timedelta(seconds=run.late))


def _second(at: datetime) -> datetime:
    """To the second, so that the page stays the same while nothing changes."""
    return at.replace(microsecond=0)


def _count(number: int) -> str:
    return f"{number:,}" if number < COUNTED_AT_MOST else f"{COUNTED_AT_MOST:,}+"
