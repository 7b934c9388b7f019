"""What is done to one run as it is: cancel, pause, resume, retry, fork."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response

from ...client.words import counted
from ...errors import StepNotFound
from ...model import FINISHED, Run, StepRecord
from ..visit import Visit
from .answering import answer
from .asking import STATUSES, Ask, cannot, deed_of, do, named, new_id_of, refused
from .replaying import replay

__all__ = ["run_do"]

_NOT_COPIED = ("lock", "unlock", "undo", "rollback")
_CHOICE = 200
"""Steps that there are to choose from at once."""


def run_do(visit: Visit, run_id: str, action: str) -> Response:
    """The page of one action on one run."""
    if action not in STATUSES:
        raise NotFound()
    visit.demand(action)
    if action == "answer":
        return answer(visit, run_id)
    if action == "replay":
        return replay(visit, run_id)
    run = visit.durable.get(run_id, values=False)
    if visit.request.method == "GET" and (refusal := refused(action, run)):
        return cannot(visit, action, run, refusal)
    return _ASKING[action](visit, run)


# ----------------------------------------------------------------------- cancel


def _cancel(visit: Visit, run: Run) -> Response:
    lines = _what_it_does(run)
    if run.cancelling is not None:
        lines.append(f"It is being cancelled already ({run.cancelling}); by force it ends at once.")
    if run.status == "pending" and not run.passes:
        lines.append("It ends at once: nothing of its code is executed.")
    else:
        lines.append("Its body gets RunCancelled where it has come to, and may clean up with steps.")
        lines.append("What it has registered with step.on_rollback is undone, the last first.")
    called = [
        step.child or step.id for step in run.steps if step.kind == "call" and step.status in ("started", "waiting")
    ]
    if called:
        go_on = "goes on is" if len(called) == 1 else "go on are"
        lines.append(
            f"{counted(len(called), 'run')} that it has called and that {go_on} cancelled, too: {named(called)}."
        )
    if run.parent:
        lines.append(f"Run {run.parent} has called it, and gets CallFailed from its step {run.parent_step!r}.")
    lines.append(
        "To Celery its state is REVOKED. It can't be resumed or retried after that: a fork or a replay is a new run."
    )
    ask = Ask("cancel", run, "Cancel this run?", "Cancel this run", lines, danger=True)
    force = visit.request.form.get("force") == "yes"
    return do(visit, ask, lambda: visit.durable.cancel(run.id, force=force, **deed_of(visit)))


def _what_it_does(run: Run) -> list[str]:
    """What the run is at now."""
    if run.status == "running":
        return [f"It is being executed by {run.worker or 'a worker'}: the step that is under way is let finish first."]
    if run.status == "paused":
        return [f"It is {run.waiting_on or 'paused'}."]
    if run.status == "suspended" and run.waiting_on:
        return [f"It waits for {run.waiting_on} now, and will not any more."]
    return []


# ---------------------------------------------------------------- pause, resume


def _pause(visit: Visit, run: Run) -> Response:
    if run.status == "running":
        worker = run.worker or "the worker"
        lines = [
            f"It is being executed by {worker}: the step that is under way is let finish first, and recorded.",
            "A step that writes to this database by step.transaction is taken back, and done again once it is resumed.",
        ]
    elif run.status == "pending":
        lines = ["It has not begun, and does not begin until it is resumed."]
    else:
        lines = [
            f"It waits for {run.waiting_on or 'its turn'}. When that comes, it stays where it is until it is resumed."
        ]
    lines.append("Events that come meanwhile are kept for it. Time goes on: a timeout that is over by then is over.")
    if run.children:
        lines.append("What it has called goes on.")
    ask = Ask("pause", run, "Pause this run?", "Pause this run", lines)
    return do(visit, ask, lambda: visit.durable.pause(run.id, **deed_of(visit)))


def _resume(visit: Visit, run: Run) -> Response:
    lines = [f"It is {run.waiting_on or 'paused'}."]
    lines.append(f"It goes on from its last recorded step: {_kept(run)}.")
    if (run.waiting_on or "").startswith("code:"):
        lines.append("If the code that is deployed now still does not fit what it has recorded, it is paused again.")
    ask = Ask("resume", run, "Resume this run?", "Resume this run", lines)
    return do(visit, ask, lambda: visit.durable.resume(run.id, **deed_of(visit)))


# ------------------------------------------------------------------ retry, fork


def _retry(visit: Visit, run: Run) -> Response:
    lines = [f"It goes on where it failed: {_kept(run)}.", _failed_of(run)]
    lines.append("An at_most_once step that has failed is not done again: the run fails of it once more.")
    ask = Ask("retry", run, "Retry this run?", "Retry this run", lines)
    return do(visit, ask, lambda: visit.durable.retry(run.id, **deed_of(visit)))


def _failed_of(run: Run) -> str:
    failed = [step for step in run.steps if step.status == "failed" and step.error and run.error]
    last = max(failed, key=lambda step: step.seen or 0, default=None)
    if last is None or last.error is None or run.error is None or last.error.message != run.error.message:
        return "What it failed of is done anew, with all its attempts."
    return f"The step {last.id!r}, which it failed of, is done anew, with all its attempts."


def _fork(visit: Visit, run: Run) -> Response:
    wanted = visit.request.form.get("from") or visit.args.get("from", "")
    steps = [step for step in run.steps if step.kind not in _NOT_COPIED]
    start = next((step for step in steps if step.id == wanted), None)
    if start is None:
        if visit.request.method == "POST" and wanted:
            raise StepNotFound(f"Run {run.id!r} has recorded no step {wanted!r}.")
        return _choose(visit, run, steps, wanted)
    reused = [
        step for step in steps if step.position < start.position and step.status in ("completed", "failed", "cancelled")
    ]
    anew = [step.id for step in steps if step.position >= start.position]
    later = "" if run.status == "completed" else ", and what comes after"
    lines = [
        f"A new run of {run.task} starts with the same input. {_reused(len(reused))}",
        f"Done anew, with all their effects: {named(anew)}{later}.",
        "This run is left as it is." + ("" if run.status in FINISHED else " It goes on beside the new one."),
        "The new run has no callbacks, and is not part of a chain or a chord.",
    ]
    ask = Ask("fork", run, f"Start anew from the step {start.id!r}?", "Start the new run", lines, more={"start": start})
    return do(visit, ask, lambda: visit.durable.fork(run.id, start.id, task_id=new_id_of(visit), **deed_of(visit)))


def _reused(count: int) -> str:
    if not count:
        return "There is no step before this one: nothing is reused."
    return (
        f"The {counted(count, 'step')} before this one {'is' if count == 1 else 'are'} reused and not executed again."
    )


def _choose(visit: Visit, run: Run, steps: list[StepRecord], wanted: str) -> Response:
    """The steps that a fork may begin with, the failed ones and the latest first."""
    found = [step for step in steps if wanted.lower() in step.id.lower()]
    listed = sorted(found, key=lambda step: (step.status != "failed", -step.position))
    return visit.render(
        "fork-from.html",
        live=False,
        run=run,
        steps=listed[:_CHOICE],
        total=len(found),
        wanted=wanted,
        any=bool(steps),
    )


def _kept(run: Run) -> str:
    finished = sum(step.status in ("completed", "cancelled") for step in run.steps)
    return (
        f"its {counted(finished, 'finished step')} {'is' if finished == 1 else 'are'} kept"
        if finished
        else "no step is finished yet"
    )


_ASKING: Mapping[str, Callable[[Visit, Run], Response]] = {
    "cancel": _cancel,
    "pause": _pause,
    "resume": _resume,
    "retry": _retry,
    "fork": _fork,
}
