"""What a system has come to: compared with another one's, and looked through for what is left behind."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from celery_durable.core.codec import decode
from celery_durable.core.faults import summary
from celery_durable.model import FINISHED

from .corpus import Notes
from .living import Rows, System

__all__ = ["differences", "left_behind", "notes", "picture"]

OF_RUN = (
    "task", "status", "result", "cancelling", "parent_id", "parent_step", "kind", "generation", "restarts", "origin_id",
    "origin_step", "resource",
)  # fmt: skip
OF_STEP = ("position", "kind", "function", "status", "input", "attempts", "child", "block")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[^\"]+")
CELERY = {"completed": "SUCCESS", "failed": "FAILURE", "cancelled": "REVOKED"}


def picture(rows: dict[str, Rows]) -> dict[str, Any]:
    """All that matters of what is recorded: nothing that chance, time or a second try makes another."""
    of_event = {row["seq"]: _event_name(row) for row in rows["event"]}
    inputs = {row["run_id"]: _TIME.sub("some time", row["arguments"]) for row in rows["input"]}
    return {
        "runs": {
            row["id"]: {name: row[name] for name in OF_RUN} | {"error": _said(row), "input": inputs.get(row["id"])}
            for row in rows["run"]
        },
        "steps": {
            (row["run_id"], row["id"]): {name: row[name] for name in OF_STEP}
            | {"error": _said(row), "came": _came(row)}
            for row in rows["step"]
        },
        "events": sorted(_event_name(row) for row in rows["event"]),
        "taken": sorted((row["run_id"], row["step_id"] or "", of_event.get(row["event"])) for row in rows["taken"]),
        "state": {(row["task"], row["key"]): row["value"] for row in rows["state"]},
        "audit": sorted((row["run_id"] or "", row["action"], row["reason"], _details(row)) for row in rows["audit"]),
        "effects": sorted((row["run_id"], row["name"]) for row in rows["effects"]),
    }


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Where two pictures differ."""
    said = []
    for part in expected:
        one, other = found[part], expected[part]
        if isinstance(other, dict):
            keys = sorted(one.keys() | other.keys(), key=repr)
            said += [
                f"{part} {key}: {one.get(key)}, not {other.get(key)}" for key in keys if one.get(key) != other.get(key)
            ]
        elif one != other:
            said.append(f"{part}: {one}, not {other}")
    return said


def _event_name(row: dict[str, Any]) -> tuple[str, ...]:
    own = row["id"] if row["emitted_by"] is None and row["id"].startswith("for-") else ""
    return own, row["name"], row["key"] or "", row["payload"]


def _said(row: dict[str, Any]) -> Any:
    """An error without its traceback, which tells where the process was."""
    if row["error"] is None:
        return None
    info = summary(row["error"])
    return info["type"], info["message"]


def _came(row: dict[str, Any]) -> Any:
    """What came of a step: of an event what it holds, and of one that was emitted that it was."""
    if row["result"] is None or row["kind"] == "emit":
        return row["result"] is not None
    found = decode(row["result"])
    return found.payload if row["kind"] == "wait" and found is not None else found


def _details(row: dict[str, Any]) -> str:
    return "" if row["action"] == "answer" else row["details"] or ""


def notes(rows: dict[str, Rows]) -> Counter[tuple[str, str]]:
    """How often everything was done that is no record."""
    runs = [row["id"] for row in rows["run"]]
    return Counter({(run, name): count for run in runs for name, count in Notes.of(run).items()})


def left_behind(system: System, rows: dict[str, Rows]) -> list[str]:
    """What no system that has come to rest holds: each with what is wrong about it."""
    runs = {row["id"]: row for row in rows["run"]}
    found = [f"{name} of no run: {row}" for name in OF_RUNS for row in _orphans(rows[name], runs)]
    found += [f"a run without its input: {run}" for run in runs.keys() - {row["run_id"] for row in rows["input"]}]
    found += [f"a lock: {row}" for row in rows["turn"]] + [f"a wait: {row}" for row in rows["wait"]]
    found += [f"a lease: {row}" for row in rows["lease"]]
    found += [f"an event not dispatched: {row}" for row in rows["event"] if row["dispatched_at"] is None]
    events = {row["seq"] for row in rows["event"]}
    found += [f"an event taken that is not there: {row}" for row in rows["taken"] if row["event"] not in events]
    for row in rows["step"]:
        if row["child"] is not None and row["child"] not in runs:
            found.append(f"a call of no run: {row}")
        # A sleep ends when its time is over, and nothing is written for that.
        is_open = row["status"] in ("waiting", "started") and row["kind"] != "sleep"
        if is_open and runs[row["run_id"]]["status"] == "completed":
            found.append(f"a step that is open: {row}")
    return found + [wrong for row in runs.values() for wrong in _wrong_with(row, system)]


OF_RUNS = ("input", "step", "wait", "taken", "turn", "log", "audit")
"""The tables whose rows belong to runs."""


def _orphans(rows: Rows, runs: dict[str, Any]) -> Rows:
    return [row for row in rows if row["run_id"] is not None and row["run_id"] not in runs]


def _wrong_with(run: dict[str, Any], system: System) -> list[str]:
    name = f"run {run['id']} of {run['task']}"
    if run["status"] not in FINISHED:
        return [f"{name} is {run['status']}, waiting on {run['waiting_on']}"]
    wrong = []
    if run["kind"] is None:
        if run["delivered_at"] is None:
            wrong.append(f"{name}: its result was not delivered")
        state = system.app.backend.get_task_meta(run["id"])["status"]
        if state != CELERY[run["status"]]:
            wrong.append(f"{name} is {run['status']}, and Celery says {state}")
    if run["due_at"] is not None or run["queued_at"] is not None or run["wake_at"] is not None:
        wrong.append(f"{name} has ended and is to be looked at: {run}")
    if run["keep_until"] is None:
        wrong.append(f"{name} is kept for ever")
    return wrong
