"""Figures: what there is of runs, over time and now, and what is behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from ..core.duration import SECOND, Duration, as_datetime, micros, moment
from ..core.match import check_event_key, check_event_name
from ..model import Activity, Health, LateRun, Period, Stats, WorkerInfo, Workload
from ..store.finding import COUNTED_AT_MOST, LOOKED_AT_MOST
from .reading import STATUSES, Reader, check_limit, filtered

__all__ = ["Figures", "WaitingRuns"]

_LATE_RUNS = 1000
_NEARLY_DUE = 120 * SECOND
"""Longer than the longest time until a message that nobody answers is sent again."""
_RUNS_OF_WORKER = 20
_MOST_PERIODS = 1000


class WaitingRuns(NamedTuple):
    """The runs that wait for an event."""

    runs: tuple[str, ...]
    """Some of them."""
    total: int
    """How many there are, up to 10,000."""


class Figures(Reader):
    """What can be counted. But for ``stats``, which reads every run, the cost does not grow with the table."""

    def stats(self) -> Stats:
        """How many runs there are, by status and task; what is behind; who sweeps."""
        with self._store.link() as link:
            counts = self._store.counts(link)
            condition = self._store.condition(link)
        statuses = dict.fromkeys(STATUSES, 0)
        tasks: dict[str, dict[str, int]] = {}
        for task, status, runs in counts:
            statuses[status] += runs
            tasks.setdefault(task, {})[status] = runs
        return Stats(
            statuses=statuses,
            tasks=tasks,
            queued=condition["queued"],
            undispatched_events=condition["undispatched"],
            lag=_lag(int(condition["now"]), condition["due_since"]),
            sweeper=condition["sweeper"],
        )

    def health(self) -> Health:
        """What tells whether runs go on as they should: the database's clock, who sweeps, what is late. Its cost does
        not grow with the number of runs: of those that are late it has the first 1,000."""
        with self._store.link() as link:
            ailments = self._store.ailments(link)
            late = self._store.late(link, within=_NEARLY_DUE, limit=_LATE_RUNS)
        now = int(ailments["now"])
        return Health(
            clock=as_datetime(now),
            sweeper=ailments["sweeper"],
            paused=ailments["paused"],
            queued=ailments["queued"],
            event_lag=_lag(now, ailments["events_since"]),
            late=tuple(
                LateRun(
                    id=row["id"],
                    task=row["task"],
                    status=row["status"],
                    worker=row["worker"],
                    sends=row["sends"],
                    late=(now - row["due_at"]) / SECOND,
                )
                for row in late
            ),
        )

    def counts(self, **which: Any) -> dict[str, int]:
        """How many runs there are of each status among those that a filter of :meth:`runs` holds for.

        Counted up to 10,000 each: that many means that there may be more. With ``search`` or ``waiting_on``, of the
        10,000 newest runs, which are those that the first page looks at.
        """
        wanted = filtered(**{"status": None, "since": None, "until": None} | which)
        with self._store.link() as link:
            return self._store.count_runs(link, wanted)

    def activity(self, *, task: str | None = None, since: Duration | datetime = "24h", periods: int = 48) -> Activity:
        """What became of the runs that were made since then, in equal periods until now: how many there are of each
        status, and how long those took that have completed.

        ``since`` is how long ago, or a point in time. The newest 20,000 runs are looked at; where there are more, the
        answer says so.
        """
        if isinstance(periods, bool) or not isinstance(periods, int) or not 1 <= periods <= _MOST_PERIODS:
            raise ValueError(f"periods={periods!r}: a whole number from 1 to {_MOST_PERIODS} is expected")
        filtered(status=None, since=None, until=None, task=task)
        with self._store.link() as link:
            now = self._store.now(link)
            begin = _since(since, now)
            if begin >= now:
                raise ValueError(f"since={since!r}: a time before now is expected")
            rows = self._store.runs_since(link, task, begin)
        sampled = len(rows) > LOOKED_AT_MOST
        rows = rows[:LOOKED_AT_MOST]
        return Activity(
            periods=tuple(_periods(rows, begin, now, periods)),
            sampled=sampled,
            counted_since=as_datetime(rows[-1].created_at) if sampled else None,
        )

    def workload(self) -> Workload:
        """Who executes runs, who sweeps, and how much waits, as the database knows it. Nothing is counted beyond
        10,000."""
        with self._store.link() as link:
            figures, running = self._store.workload(link)
        now, sweeper = int(figures["now"]), figures["sweeper"]
        return Workload(
            clock=as_datetime(now),
            workers=_workers(running, sweeper),
            sweeper=sweeper,
            sweeper_until=None if sweeper is None else as_datetime(figures["sweeper_until"]),
            due=figures["due"],
            lag=_lag(now, figures["due_since"]),
            asleep=figures["asleep"],
            queued=figures["queued"],
            undispatched_events=figures["undispatched"],
            event_lag=_lag(now, figures["event_since"]),
        )

    def waiting(self, event: str, key: str | None = None, *, limit: int = 100) -> WaitingRuns:
        """The runs that wait for an event of this name and key: those that an ``emit`` would wake, as far as their
        ``match`` holds for its payload."""
        check_limit(limit)
        with self._store.link() as link:
            found = self._store.waiting_for(link, check_event_name(event), check_event_key(key))
        return WaitingRuns(runs=tuple(sorted(found)[:limit]), total=min(len(found), COUNTED_AT_MOST))


def _lag(now: int, since: int | None) -> float:
    return 0.0 if since is None else max(0, now - since) / SECOND


def _since(since: Duration | datetime, now: int) -> int:
    """How long ago, or a point in time."""
    if isinstance(since, datetime):
        return moment(since)
    try:
        return now - micros(since)
    except ValueError:
        if not isinstance(since, str):
            raise
    try:
        return moment(since)
    except ValueError as error:
        raise ValueError(f'{error}; or how long ago it was, such as "24h"') from None


def _periods(rows: Iterable[Any], begin: int, end: int, count: int) -> Iterable[Period]:
    statuses: list[Counter[str]] = [Counter() for _ in range(count)]
    took: list[list[int]] = [[] for _ in range(count)]
    for row in rows:
        # One that was made since the clock was read belongs to the last period.
        place = min((row.created_at - begin) * count // (end - begin), count - 1)
        statuses[place][row.status] += 1
        if row.status == "completed" and row.started_at is not None and row.finished_at is not None:
            took[place].append(row.finished_at - row.started_at)
    edges = [begin + (end - begin) * place // count for place in range(count + 1)]
    for place in range(count):
        durations = sorted(took[place])
        yield Period(
            since=as_datetime(edges[place]),
            until=as_datetime(edges[place + 1]),
            statuses={status: statuses[place][status] for status in STATUSES},
            p50=_percentile(durations, 50),
            p95=_percentile(durations, 95),
        )


def _percentile(durations: list[int], percent: int) -> float | None:
    """The shortest time within which that many of them were done."""
    if not durations:
        return None
    return max(0, durations[-(-len(durations) * percent // 100) - 1]) / SECOND


def _workers(running: Iterable[Any], sweeper: str | None) -> tuple[WorkerInfo, ...]:
    """The workers that execute something, busiest first, and the one that sweeps."""
    runs: dict[str, list[Any]] = {}
    for row in running:
        runs.setdefault(row.worker or "?", []).append(row)
    if sweeper is not None:
        runs.setdefault(sweeper, [])
    found = []
    for name, rows in runs.items():
        leases = [row.due_at for row in rows if row.due_at is not None]
        found.append(
            WorkerInfo(
                name=name,
                runs=tuple(row.id for row in rows[:_RUNS_OF_WORKER]),
                runs_total=len(rows),
                lease_until=as_datetime(min(leases)) if leases else None,
                sweeps=name == sweeper,
            )
        )
    return tuple(sorted(found, key=lambda worker: (-worker.runs_total, worker.name)))
