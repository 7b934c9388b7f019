"""What the producer starts, emits and cancels, and how each of it has to end: the audit compares with this."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["SEEN", "SHAPES", "Expected", "Plan", "plans"]

SEEN = "seen"
"""The result is what the body saw of its steps: it has to be what is recorded."""
LINKED = ("steps", "pays", "flaky", "tree", "waits")
"""Shapes that are started with callbacks."""


@dataclass
class Plan:
    """One thing that the producer does. It can be written as JSON and read again."""

    id: str
    shape: str
    args: list[Any] = field(default_factory=list)
    events: list[tuple[float, str, Any]] = field(default_factory=list)
    """Seconds after the start, name and payload of what is emitted under the id as the key."""
    cancel_after: float | None = None
    least: float = 0.0
    """Seconds that it takes where nothing goes wrong, by its own sleeps and by when its events are emitted."""

    def written(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Expected:
    """How a run has to end."""

    status: str = "completed"
    result: Any = None
    steps: frozenset[str] | None = None
    """The ids of its steps, if they are the same however it goes."""
    undone: tuple[str, ...] = ()
    callbacks: tuple[str, ...] = ()
    """Ordinary tasks that are told of its end: effects under its id."""
    called: int = 0
    """How many runs name it as their parent."""
    error: str | None = None


@dataclass(frozen=True)
class Shape:
    make: Callable[[random.Random, str], Plan]
    expected: Callable[[Plan], Expected]


SHAPES: dict[str, Shape] = {}


def plans(rng: random.Random, prefix: str) -> Iterator[Plan]:
    """What to do, without an end: all shapes in any order, and again."""
    for number, name in enumerate(itertools.chain.from_iterable(shuffled(rng) for _ in itertools.count())):
        yield SHAPES[name].make(rng, f"{prefix}-{number:05}-{name}")


def shuffled(rng: random.Random) -> list[str]:
    return rng.sample(list(SHAPES), len(SHAPES))


def steps(*ids: str) -> frozenset[str]:
    return frozenset(ids)


def shape(
    name: str,
    expected: Callable[[Plan], Expected] | Expected,
    args: Callable[[random.Random], list[Any]] = lambda rng: [],
    *,
    least: Callable[[list[Any]], float] | float = 0.0,
    events: Callable[[random.Random, list[Any]], list[tuple[float, str, Any]]] = lambda rng, args: [],
    cancel: bool = False,
) -> None:
    def make(rng: random.Random, run_id: str) -> Plan:
        given = args(rng)
        emitted = events(rng, given)
        time = least if isinstance(least, float | int) else least(given)
        time = max([time, *(after for after, _, _ in emitted)])
        return Plan(run_id, name, given, emitted, round(rng.uniform(0, 3), 2) if cancel else None, time)

    SHAPES[name] = Shape(make, (lambda plan: expected) if isinstance(expected, Expected) else expected)


def says(name: str, count: Callable[[list[Any]], int] = lambda args: 1):
    """Events at moments of a few seconds, the first of them perhaps before the wait is reached."""

    def make(rng: random.Random, args: list[Any]) -> list[tuple[float, str, Any]]:
        after, made = 0.0, []
        for number in range(count(args)):
            after += rng.choice([0.0, rng.uniform(0, 4)])
            made.append((round(after, 2), name, {"number": number}))
        return made

    return make


TOLD = ("callback",)

shape(
    "steps",
    Expected(result=SEEN, steps=steps("one", "two", "three", "four"), callbacks=TOLD),
    lambda rng: [rng.choice([0, 0.02, 0.2])],
    least=lambda args: 4 * args[0],
)
shape("pays", Expected(result=SEEN, steps=steps("first", "work", "nap", "second"), callbacks=TOLD), least=1.05)
shape(
    "naps",
    Expected(result=SEEN, steps=steps("before", "nap", "after")),
    lambda rng: [round(rng.choice([rng.uniform(0.1, 3), rng.uniform(8, 14)]), 2)],
    least=lambda args: args[0],
)
shape(
    "flaky",
    Expected(result=SEEN, steps=steps("flaky", "after"), callbacks=TOLD),
    lambda rng: [rng.randint(1, 3)],
    least=lambda args: sum(0.2 * 1.5**number for number in range(args[0])),
)
shape("retried", Expected(result=SEEN, steps=steps("kept", "after")), least=0.6)
shape("once", Expected(result=SEEN, steps=steps("risky", "after")), least=0.3)
shape("anew", Expected(result=4, steps=steps("pay", "nap")), least=1.0)
shape(
    "waits",
    Expected(result={"number": 0}, steps=steps("before", "approved", "after"), callbacks=TOLD),
    events=says("approved"),
)
shape(
    "hears",
    lambda plan: Expected(
        result=[{"number": number} for number in range(plan.args[0])],
        steps=steps(*(f"{what}-{number}" for number in range(plan.args[0]) for what in ("hear", "work"))),
    ),
    lambda rng: [rng.randint(2, 4)],
    events=says("said", lambda args: args[0]),
)
shape("hears_nothing", Expected(steps=steps("nothing", "after")), least=2)
shape("listens", lambda plan: Expected(result={"to": plan.id}, steps=steps("spoken", "speaker"), called=1), least=0.5)
shape(
    "spreads",
    Expected(
        result=SEEN,
        steps=steps("a", "b", "c", "nap", "approved", "ordinary", "durable", "after"),
        called=2,
    ),
    events=says("approved"),
    least=0.5,
)
shape("races", Expected(result="nap", steps=steps("nap", "never", "loser", "after"), called=1), least=1)
shape(
    "maps",
    lambda plan: Expected(steps=steps(*(f"item[{number}]" for number in range(plan.args[0])))),
    lambda rng: [rng.randint(3, 9)],
)
shape(
    "tree",
    lambda plan: Expected(result=2 ** plan.args[0], steps=steps("child-0", "child-1"), called=2, callbacks=TOLD),
    lambda rng: [rng.randint(1, 2)],
)
shape(
    "calls", Expected(result=[3, 9, 10, [0, 2, 4]], steps=steps("task", "chain", "chord", "group", "after")), least=0.6
)
shape(
    "gathers",
    Expected(result=SEEN, steps=steps("a", "b", "nap", "approved", "after")),
    events=says("approved"),
    least=0.5,
)
shape(
    "doomed",
    Expected("failed", undone=("undo-reserve", "undo-book"), callbacks=("errback",), error="no money"),
    least=0.5,
)
shape("cancelled", Expected("cancelled"), lambda rng: [rng.choice([0, 0.5])], cancel=True)
shape("overdue", Expected("failed", undone=("undo",), error="RunTimeout"), least=3)
shape("locked", Expected(), lambda rng: [rng.randrange(4)])
shape("limited", Expected(result=SEEN, steps=steps("one", "nap", "two")), least=0.7)
shape("counts", Expected(), least=0.2)
# These are not runs themselves: what they start has ids made of theirs.
shape("signup", Expected(), events=lambda rng, args: [(0.0, "chaos.signup", None)])
shape("chained", Expected(), least=0.6)
shape("chorded", Expected(), lambda rng: [rng.randint(2, 4)], least=0.3)
