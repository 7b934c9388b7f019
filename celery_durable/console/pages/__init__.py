"""Which address is which page."""

from __future__ import annotations

from collections.abc import Callable

from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Response

from ..segments import SegmentConverter
from . import bulk, deeds, doing, emitting, events, files, run, runs, signing, starting, tasks, workers

__all__ = ["OPEN", "PAGES", "RULES"]

RULES = Map(
    [
        Rule("/", endpoint="runs", methods=["GET"]),
        Rule("/runs/<action>", endpoint="runs-do", methods=["GET", "POST"]),
        Rule("/run/<segment:run_id>", endpoint="run", methods=["GET"]),
        Rule("/run/<segment:run_id>/step/<segment:step_id>", endpoint="run-step", methods=["GET"]),
        Rule("/run/<segment:run_id>/history.json", endpoint="run-history", methods=["GET"]),
        Rule("/run/<segment:run_id>/<action>", endpoint="run-do", methods=["GET", "POST"]),
        Rule("/events", endpoint="events", methods=["GET"]),
        Rule("/events/emit", endpoint="events-emit", methods=["GET", "POST"]),
        Rule("/event/<segment:event_id>", endpoint="event", methods=["GET"]),
        Rule("/tasks", endpoint="tasks", methods=["GET"]),
        Rule("/task/<segment:name>", endpoint="task", methods=["GET"]),
        Rule("/task/<segment:name>/start", endpoint="task-start", methods=["GET", "POST"]),
        Rule("/workers", endpoint="workers", methods=["GET"]),
        Rule("/deeds", endpoint="deeds", methods=["GET"]),
        Rule("/sign-in", endpoint="sign-in", methods=["GET", "POST"]),
        Rule("/sign-out", endpoint="sign-out", methods=["POST"]),
        Rule("/static/<name>", endpoint="static", methods=["GET"]),
    ],
    converters={"segment": SegmentConverter},
    strict_slashes=False,
    merge_slashes=False,
)

OPEN: dict[str, Callable[..., Response]] = {"static": files.static, "sign-in": signing.sign_in}
"""What everybody may see."""

PAGES: dict[str, Callable[..., Response]] = {
    "deeds": deeds.deeds,
    "event": events.event,
    "events": events.events,
    "events-emit": emitting.emit,
    "run": run.run,
    "run-do": doing.run_do,
    "run-history": run.run_history,
    "run-step": run.run_step,
    "runs": runs.runs,
    "runs-do": bulk.runs_do,
    "sign-out": signing.sign_out,
    "task": tasks.task,
    "task-start": starting.start,
    "tasks": tasks.tasks,
    "workers": workers.workers,
}
"""Each a function of a visit, and of what stands in the address."""
