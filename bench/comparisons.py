"""What is measured of each engine, by which way it does it best, and what figures come of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from bench.workers import percentile

__all__ = ["ALL", "OURS", "AtRest", "Comparison", "Figure", "Way"]

OURS = "celery_durable"
STEPS, ORDERS = 1_000, 200
BOTH, SERVER = ("postgresql", "sqlite"), ("postgresql",)
Turns = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Figure:
    """What is told of the answers of all turns."""

    name: str
    unit: str
    of: Callable[[Sequence[float]], float]
    """The figure of one turn's answers, or of all of them."""
    pooled: bool = False
    """Tails need more samples than a turn has: then it is of the answers of all turns together."""
    more_is_better: bool = False

    def value(self, turns: Turns) -> float:
        if self.pooled:
            return self.of([sample for turn in turns for sample in turn])
        return statistics.median(self.of(turn) for turn in turns)

    def ratio(self, ours: Turns, theirs: Turns) -> float | None:
        """Ours over theirs in goodness: above 1 where ours is better. The median of the ratios within a turn; none
        where there is nothing to divide by.
        """
        if self.pooled:
            pairs = [(self.value(ours), self.value(theirs))]
        else:
            pairs = [(self.of(own), self.of(other)) for own, other in zip(ours, theirs, strict=True)]
        if any(own <= 0 or other <= 0 for own, other in pairs):
            return None
        return statistics.median(own / other if self.more_is_better else other / own for own, other in pairs)


@dataclass(frozen=True)
class Way:
    """How one of those that are compared does it."""

    label: str
    program: str
    """``ours``, or one of ``bench.programs.ENGINES``."""
    measure: str
    remark: str = ""
    databases: tuple[str, ...] = SERVER


@dataclass(frozen=True)
class Comparison:
    """One thing that is measured side by side."""

    name: str
    title: str
    given: tuple[str, ...]
    """The arguments of the measure, one line each: their answers are those of a turn, one after another."""
    figures: tuple[Figure, ...]
    ways: tuple[Way, ...]
    missing: dict[str, str] = field(default_factory=dict)
    """Who can't, and why."""
    processes: int = 1
    """Of our worker."""


@dataclass(frozen=True)
class AtRest(Comparison):
    """Programs that are looked at from outside while they do nothing."""


def _each(number: int, scale: float) -> Callable[[Sequence[float]], float]:
    return lambda seconds: seconds[0] / number * scale


def _part(part: float) -> Callable[[Sequence[float]], float]:
    return lambda seconds: percentile(list(seconds), part) * 1000


P50, P99 = (
    Figure(f"p{part * 100:.0f}", "ms", _part(part), pooled=True) for part in (0.5, 0.99)
)  # fmt: skip
IN_PROCESS = "one run, executed in the process that starts it"

STEP = Comparison(
    "steps", f"a new step, of {STEPS:,} tiny ones in one run", (f"{STEPS}",),
    (Figure("per step", "us", _each(STEPS, 1e6)),),
    (
        Way(OURS, "ours", "steps", IN_PROCESS, BOTH),
        Way("bare driver", "ours", "bare_steps", "the same fenced write on the driver's cursor", BOTH),
        Way("DBOS", "dbos", "steps", IN_PROCESS, BOTH),
        Way("Absurd", "absurd", "steps", "one run, claimed and executed in the process that starts it"),
        Way("Restate", "restate", "steps", "a call of its server, which syncs to the same disk"),
    ),
)  # fmt: skip
REPLAY = Comparison(
    "replay", f"a recorded step, of {STEPS:,} in one run", (f"{STEPS}",),
    (Figure("per record", "us", _each(STEPS, 1e6)),),
    (
        Way(OURS, "ours", "replay", "a pass from claiming the run to its end", BOTH),
        Way("reading the rows", "ours", "bare_replay", databases=BOTH),
        Way("DBOS", "dbos", "replay", "a fork of the run: its body alone, which comes by a queue", BOTH),
        Way("Absurd", "absurd", "replay", "a pass from claiming the run to its end"),
    ),
    {"Restate": "its server decides when a pass begins, and a pass can't be told from what is around it"},
)  # fmt: skip
ORDER = Comparison(
    "orders", f"{ORDERS} orders of 4 steps, first start to last result, one worker process",
    (f"{ORDERS}",),
    (Figure("orders", "/s", lambda seconds: ORDERS / seconds[0], more_is_better=True),),
    (
        Way(OURS, "ours", "orders", "by Redis", BOTH),
        Way("Celery chain", "ours", "chains", "not durable; the same worker", BOTH),
        Way("DBOS", "dbos", "orders", "started on threads of the process itself, its quickest way", BOTH),
        Way("Absurd", "absurd", "orders", "its worker asks for work each 10 ms, and takes 10 at a time"),
        Way("Restate", "restate", "orders", "all called at once; a service of one process, and the server's own"),
    ),
)  # fmt: skip
START = Comparison(
    "starts", "from a start to the first line of the body, nothing else to do", ("40",), (P50, P99),
    (
        Way(OURS, "ours", "starts", "another process, by Redis", BOTH),
        Way("plain Celery task", "ours", "plain_starts", "not durable; the same worker", BOTH),
        Way("DBOS", "dbos", "starts", "a thread of the process that starts it", BOTH),
        Way("DBOS, queued", "dbos", "starts_queued", "its way to another process, asked each 0.1 s", BOTH),
        Way("Absurd", "absurd", "starts", "another process, which asks each 10 ms"),
        Way("Restate", "restate", "starts", "another process, by its server"),
    ),
)  # fmt: skip
EVENT = Comparison(
    "events", "from an event to the next step's first line, 300 runs waiting", ("300 40 0.03",), (P50, P99),
    (
        Way(OURS, "ours", "events", "emit and wait_for_event, by Redis"),
        Way("Celery, two tasks", "ours", "relayed", "not durable: a task sends another; the same worker"),
        Way("DBOS", "dbos", "events", "send and recv: a thread for each run that waits"),
        Way("Absurd", "absurd", "events", "emit_event and await_event; its worker asks each 10 ms, two runs at a time"),
        Way("Restate", "restate", "events", "an awakeable; for a minute the run is let stay, and not parked"),
    ),
    processes=2,
)  # fmt: skip
LENGTHS = (100, 200, 400, 800)
SUSPEND = Comparison(
    "suspends", "a run, every 10th step of which is a sleep of a millisecond",
    tuple(f"{length} 10" for length in LENGTHS),
    (
        *(
            Figure(f"{length} steps", "ms", lambda seconds, place=place: seconds[place] * 1000)  # type: ignore[misc]
            for place, length in enumerate(LENGTHS)
        ),
        Figure("800 steps in times of 100", "x", lambda seconds: seconds[-1] / seconds[0]),
    ),
    (
        Way(OURS, "ours", "suspends", "parked at each sleep, by Redis", BOTH),
        Way("DBOS", "dbos", "suspends", "does not park: a thread sleeps", BOTH),
        Way("Absurd", "absurd", "suspends", "parked at each sleep, and asked for again without a pause"),
        Way("Restate", "restate", "suspends", "does not park for less than a minute"),
    ),
)  # fmt: skip
SLEEP = Comparison(
    "sleeps", "how late a sleep of 2 s ends, one started each 0.1 s", ("40 2.0 0.1",), (P50, P99),
    (
        Way(OURS, "ours", "sleeps", "by Redis"),
        Way("Celery ETA task", "ours", "eta_sleeps", "countdown=2: not durable; the same worker"),
        Way("DBOS", "dbos", "sleeps", "a thread sleeps"),
        Way("Absurd", "absurd", "sleeps", "its worker asks each 10 ms, two runs at a time"),
        Way("Restate", "restate", "sleeps", "its server's timer"),
    ),
    processes=2,
)  # fmt: skip
PARKED = AtRest(
    "parked", "what 1,000 runs that sleep an hour add to the processes that execute them", ("1000",),
    (Figure("memory", "MB", lambda seen: seen[0]), Figure("threads", "threads", lambda seen: seen[1])),
    (
        Way(OURS, "ours", "parked", "the worker's processes"),
        Way("Celery ETA tasks", "ours", "eta_parked", "the worker's processes"),
        Way("DBOS", "dbos", "parked", "workflows that are ordinary functions"),
        Way("DBOS, async", "dbos", "parked_async", "workflows that are coroutines"),
        Way("Absurd", "absurd", "parked", "the process that executes them"),
    ),
    {"Restate": "a run is let stay for a minute, and is parked then"},
)  # fmt: skip
IDLE = AtRest(
    "idle", "a process that has nothing to do", (),
    (
        Figure("transactions", "/s", lambda seen: seen[0]),
        Figure("processor", "% of a core", lambda seen: seen[1]),
    ),
    (
        Way(OURS, "ours", "", "a worker of one process, and its main one"),
        Way("plain Celery", "plain", "", "a worker of one process, and its main one"),
        Way("DBOS", "dbos", "", "its defaults, and no queue of ours"),
    ),
    {
        "Absurd": "its worker asks as often as it is told to: each 10 ms here",
        "Restate": "its server is the database",
    },
)  # fmt: skip

ALL = {
    comparison.name: comparison
    for comparison in (STEP, REPLAY, ORDER, START, EVENT, SUSPEND, SLEEP, PARKED, IDLE)
}  # fmt: skip
