"""A run's steps as a graph: what came one after the other, and what went on side by side.

A run has one path, the one that was taken, so its graph is a sequence. In it stand single steps, and blocks: the
branches of a block are columns, and a column may hold a block again. Which blocks a step was a branch of is recorded
with it. In an ``async def`` body nothing says what belongs together, so there the clock tells: what overlapped in time
is shown side by side, each column a sequence of steps that did not overlap.

However long a run is, its graph stays small enough to be looked at: where nothing but plain completed steps follow each
other, all but the first and the last of them are one fold. Nothing is lost: every step is a node, or in one fold.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from heapq import heappop, heappush
from itertools import groupby, pairwise

from ..model import StepRecord

__all__ = ["Block", "Fold", "Node", "Part", "flow", "steps_in"]

WHOLE = 40
"""Steps of which all are shown."""
_HEAD, _TAIL, _AROUND = 8, 16, 2
_NOTABLE = 40
"""Steps that failed, wait or are being done, and are shown wherever they are: the last ones."""
_FEW = 8
"""Plain steps that are not worth a fold."""
_NOISE = timedelta(milliseconds=1)
"""What the clocks of two passes may differ by."""
_LONG_AGO = datetime.min.replace(tzinfo=timezone.utc)
_ENDLESS = datetime.max.replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class Node:
    """One step."""

    step: StepRecord


@dataclass(frozen=True)
class Fold:
    """Steps that are not shown one by one."""

    steps: tuple[StepRecord, ...]

    @property
    def odd(self) -> int:
        """How many of them did not complete."""
        return sum(step.status != "completed" for step in self.steps)


@dataclass(frozen=True)
class Block:
    """What went on side by side. ``kind`` is ``parallel``, ``race`` or ``map``, or ``together`` where only the clock
    tells so."""

    kind: str
    columns: tuple[tuple[Part, ...], ...]


Part = Node | Fold | Block


def flow(steps: Sequence[StepRecord]) -> tuple[Part, ...]:
    """The graph of these steps, which are in the order of their positions."""
    shown = _worth_showing(steps)
    parts = _sequence(steps, shown)
    # What is folded in one stretch may belong to several blocks: then some folds are of a few steps only.
    small = {step.id for fold in _folds(parts) if len(fold.steps) < _FEW for step in fold.steps}
    return _sequence(steps, shown | small) if small else parts


def steps_in(parts: Iterable[Part]) -> Iterator[StepRecord]:
    """All steps of a graph, those of folds too, column by column."""
    for part in parts:
        if isinstance(part, Node):
            yield part.step
        elif isinstance(part, Fold):
            yield from part.steps
        else:
            for column in part.columns:
                yield from steps_in(column)


def _folds(parts: Iterable[Part]) -> Iterator[Fold]:
    for part in parts:
        if isinstance(part, Fold):
            yield part
        elif isinstance(part, Block):
            for column in part.columns:
                yield from _folds(column)


def _worth_showing(steps: Sequence[StepRecord]) -> set[str]:
    """The ids of the steps that are nodes: the first and the last ones, and those around whatever is not plain."""
    count = len(steps)
    if count <= WHOLE:
        return {step.id for step in steps}
    notable = [place for place, step in enumerate(steps) if step.status not in ("completed", "cancelled")]
    places = {*range(_HEAD), *range(count - _TAIL, count)}
    for place in notable[-_NOTABLE:]:
        places.update(range(max(0, place - _AROUND), min(count, place + _AROUND + 1)))
    ordered = sorted(places)
    for before, after in pairwise(ordered):
        if after - before <= _FEW:
            places.update(range(before, after))
    return {steps[place].id for place in places}


# -- Sequences and blocks


def _sequence(steps: Sequence[StepRecord], shown: Collection[str]) -> tuple[Part, ...]:
    """What came one after the other."""
    parts: list[Part] = []
    for in_block, items in groupby(_grouped(steps, 0), key=lambda item: item[0] is not None):
        if in_block:
            parts += [_block(kind or "", members, 1, shown) for kind, members in items]
        else:
            parts += _by_time([members[0] for _, members in items], shown)
    return _joined(parts)


def _grouped(steps: Iterable[StepRecord], depth: int) -> list[tuple[str | None, list[StepRecord]]]:
    """The steps by the block that they are in at this depth, in the order of their first ones; those in none alone."""
    found: list[tuple[str | None, list[StepRecord]]] = []
    known: dict[str, list[StepRecord]] = {}
    for step in steps:
        path = step.block.split("/") if step.block else []
        segment = path[depth] if depth < len(path) else None
        if segment is None:
            found.append((None, [step]))
        elif segment in known:
            known[segment].append(step)
        else:
            known[segment] = [step]
            found.append((segment.partition(":")[0], known[segment]))
    return found


def _block(kind: str, steps: list[StepRecord], depth: int, shown: Collection[str]) -> Part:
    """A block whose branches are single steps and, deeper, blocks."""
    branches = _grouped(steps, depth)
    return _side_by_side(
        kind,
        (
            (_node(members[0], shown),) if inner is None else (_block(inner, members, depth + 1, shown),)
            for inner, members in branches
        ),
    )


def _node(step: StepRecord, shown: Collection[str]) -> Part:
    return Node(step) if step.id in shown else Fold((step,))


def _side_by_side(kind: str, columns: Iterable[tuple[Part, ...]]) -> Part:
    """Columns as one part. Neighbours in which nothing is shown are one; a block in which nothing is shown is none."""
    kept: list[tuple[Part, ...]] = []
    for folded, group in groupby(columns, key=_is_folded):
        some = list(group)
        kept += [_joined(part for column in some for part in column)] if folded else some
    if len(kept) == 1 and _is_folded(kept[0]):
        return kept[0][0]
    return Block(kind, tuple(kept))


def _is_folded(column: tuple[Part, ...]) -> bool:
    return len(column) == 1 and isinstance(column[0], Fold)


def _joined(parts: Iterable[Part]) -> tuple[Part, ...]:
    """The same with neighbouring folds as one."""
    kept: list[Part] = []
    for folded, group in groupby(parts, key=lambda part: isinstance(part, Fold)):
        some = list(group)
        kept += [Fold(tuple(sorted(steps_in(some), key=lambda step: step.position)))] if folded else some
    return tuple(kept)


# -- What only the clock tells


def _by_time(steps: Iterable[StepRecord], shown: Collection[str]) -> list[Part]:
    parts: list[Part] = []
    for together in _overlapping(steps):
        if len(together) == 1:
            parts.append(_node(together[0], shown))
        else:
            columns = (_joined(_node(step, shown) for step in lane) for lane in _lanes(together))
            parts.append(_side_by_side("together", columns))
    return parts


def _overlapping(steps: Iterable[StepRecord]) -> list[list[StepRecord]]:
    """The steps in groups: between two of them, all that came before had ended."""
    groups: list[list[StepRecord]] = []
    end: datetime | None = None
    for step in steps:
        began = step.started_at or end
        if end is not None and began is not None and began < end - _NOISE:
            groups[-1].append(step)
        else:
            groups.append([step])
        end = max(end or _LONG_AGO, _end_of(step))
    return groups


def _lanes(steps: list[StepRecord]) -> list[list[StepRecord]]:
    """Steps that overlap in as few sequences as hold them."""
    lanes: list[list[StepRecord]] = []
    free: list[tuple[datetime, int]] = []
    for step in sorted(steps, key=_begin_of):
        if free and free[0][0] <= _begin_of(step) + _NOISE:
            lane = heappop(free)[1]
            lanes[lane].append(step)
        else:
            lane = len(lanes)
            lanes.append([step])
        heappush(free, (_end_of(step), lane))
    return lanes


def _begin_of(step: StepRecord) -> datetime:
    return step.started_at or step.finished_at or _ENDLESS - _NOISE


def _end_of(step: StepRecord) -> datetime:
    """When it had ended; of one that goes on, never."""
    if step.status in ("waiting", "started"):
        return _ENDLESS
    return step.finished_at or step.started_at or _LONG_AGO
