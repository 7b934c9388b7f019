"""Code that changes under runs: ``step.patched``, and what a run is told that no code fits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError

from ..core.codec import encode
from ..core.ids import MAX_ID, check_name, fingerprint
from ..core.replay import Mismatch
from ..errors import HistoryMismatch
from ..store.records import StepWrite
from .control import DatabaseAway
from .where import Place, caller

if TYPE_CHECKING:
    from .passing import Pass

__all__ = ["AFTER_A_DEPLOY", "mismatch_of", "patched", "require_patch"]

AFTER_A_DEPLOY = (
    "\nThe code has changed under a run that was past this point. Guard the change with step.patched, or give the "
    "new step an id of its own; the run is paused and goes on after such a deploy."
)
"""What to do about a mismatch, where it is not the same code that asks for something else."""
_LONGEST_INPUT = 200


def patched(run: Pass, change_id: str) -> bool:
    """Whether this run does as the code has been since a change. Decided once, where the run gets there first.

    A run that was past this point has records of what comes after, and none of the change.
    """
    step_id = f"patched:{check_name(change_id, 'the id of a change')}"
    if len(step_id) > MAX_ID:
        step_id = f"{step_id[:200]}:{fingerprint(step_id)}"
    if step_id not in run.patches:
        known = step_id in run.history
        run.patches[step_id] = known or not run.is_replaying
        if run.patches[step_id]:
            run.put_last(step_id)
        if run.patches[step_id] and not known:
            run.check_rollback()
            now = run.now()
            row = StepWrite(
                step_id, run.position_of(step_id), "patched", "completed", result=encode(True), attempts=1,
                seen=run.next_place(), started_at=now, finished_at=now,
            )  # fmt: skip
            run.write_all([row])
    return run.patches[step_id]


def require_patch(run: Pass, change_id: str) -> None:
    """The old side of a change is gone from the code: a run that needs it is paused."""
    if not patched(run, change_id):
        run.leave_with(
            HistoryMismatch(
                f"run {run.run_id} was past the change {change_id!r} before it was made, and its old side is gone from "
                f"the code ({caller()}). Deploy a version that has it (step.patched), let the runs of before end, and "
                "then remove it; or cancel this run. It is paused and goes on after such a deploy."
            )
        )


def mismatch_of(run: Pass, found: Mismatch, given: str, place: Place) -> HistoryMismatch:
    """What was recorded and what is asked, side by side."""
    recorded, asked = found.recorded, found.asked
    # Read only, and not by the way that writes go: a rehearsal tells of it, too.
    try:
        row = run.store.recorded_input(run.link, run.run_id, recorded.id)
    except DBAPIError as error:
        if run.is_rehearsal:
            raise
        run.leave(DatabaseAway(str(error)))
    function = f" of {row['function']}" if row is not None and row["function"] else ""
    return HistoryMismatch(
        f"step {asked.id!r} of run {run.run_id} does not fit what was recorded.\n"
        f"    recorded: a {recorded.kind!r} step{function}, given {_short(row['input'] if row else None)}\n"
        f"    the code: a {asked.kind!r} step, given {_short(given)} ({place}){AFTER_A_DEPLOY}"
    )


def _short(text: str | None) -> str:
    if text is None:
        return "nothing"
    shown = json.dumps(json.loads(text), ensure_ascii=False)
    return shown if len(shown) <= _LONGEST_INPUT else f"{shown[:_LONGEST_INPUT]}..."
