"""What an audit has found, for people."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from tests.chaos.audit import TASK, Audit, Violation

__all__ = ["told"]

Deeds = list[tuple[float, str]]
AROUND = 5.0
"""Seconds before and after a run in which the monkey's deeds belong to its story."""
FACTS = ("passes", "sends", "retries", "recoveries", "worker", "waiting_on", "error")


def told(violations: Iterable[Violation], audit: Audit, deeds: Deeds) -> Iterator[str]:
    """Each run's troubles, its steps, and what was done and what the monkey did meanwhile."""
    by_run: dict[str | None, list[Violation]] = defaultdict(list)
    for violation in violations:
        by_run[violation.run].append(violation)
    for run_id, found in by_run.items():
        run = None if run_id is None else audit.runs.get(run_id)
        yield f"\n{run_id or 'in all'}" + (f" ({run['task'].removeprefix(TASK)}, {run['status']})" if run else "")
        yield from (f"  {one.claim}: {one.why}" for one in found)
        if run is not None:
            yield "  run: " + ", ".join(f"{name} {run[name]!r}"[:200] for name in FACTS if run[name] is not None)
            yield from _story(run, audit, deeds)


def _story(run: dict[str, Any], audit: Audit, deeds: Deeds) -> Iterator[str]:
    for row in sorted(audit.steps[run["id"]].values(), key=lambda row: row["position"]):
        outcome = str(row["result"] or row["error"])[:100]
        yield f"  step {row['id']}: {row['kind']} {row['status']}, {row['attempts']} attempts, {outcome}"
    begun = audit.moment(run["created_at"])
    ended = audit.moment(run["finished_at"]) if run["finished_at"] else begun + 60
    lines = [(at, f"monkey: {what}") for at, what in deeds if begun - AROUND <= at <= ended + AROUND]
    for (run_id, _), effects in audit.effects.items():
        if run_id == run["id"]:
            lines += [(one.at, f"effect {one.name} {one.nonce} by {one.pid}") for one in effects]
    yield from (f"  {at - begun:+8.2f} s  {what}" for at, what in sorted(lines))
