"""A run as a text that can be kept: its history, to be replayed by another version of the code.

What no replay asks for is left out: what a run was sent with, such as the headers of its caller, and the tracebacks of
its errors, which tell of the machine that it was on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..core.codec import decode, encode
from ..errors import DamagedRecord, DurableError
from ..store.records import Columns

__all__ = ["history_text", "read_history"]

FORMAT = 1
_OF_RUN = (
    "id", "task", "status", "arguments", "result", "error", "waiting_on", "passes", "retries", "recoveries",
    "generation", "restarts", "code_version", "cancelling", "reported", "parent_id", "parent_step", "created_at",
    "started_at", "finished_at",
)  # fmt: skip
_OF_STEP = (
    "id", "position", "kind", "function", "status", "input", "input_hash", "result", "error", "attempts", "wake_at",
    "heartbeat", "child", "seen", "started_at", "finished_at",
)  # fmt: skip
_PAYLOADS = frozenset({"arguments", "result", "error", "input", "heartbeat", "reported"})

Row = Columns | Mapping[str, Any]


def history_text(run: Row, steps: Iterable[Row], redact: Callable[[Any], Any] | None = None) -> str:
    """A run and its steps as JSON. ``redact``: what takes secrets out of inputs."""
    told = {
        "celery_durable_history": FORMAT,
        "run": {name: _out(name, run[name], redact) for name in _OF_RUN},
        "steps": [{name: _out(name, step[name], redact) for name in _OF_STEP} for step in steps],
    }
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def _out(name: str, value: Any, redact: Callable[[Any], Any] | None) -> Any:
    """A stored value is JSON itself: shown as such, so that people can read it and see what changes."""
    if value is None or name not in _PAYLOADS:
        return value
    if redact is not None and name in ("arguments", "input"):
        value = encode(redact(decode(value)))
    try:
        told = json.loads(value)
    except ValueError as error:
        raise DamagedRecord(f"the {name} of the run, or of a step, is no JSON: {value!r:.80}") from error
    if name == "error" and isinstance(told, dict):
        told.pop("traceback", None)
    return told


def read_history(text: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The values of a run's row and of its steps' rows. Raises ``DurableError`` where it is no history."""
    try:
        told = json.loads(text)
        known = told["celery_durable_history"]
        rows = [told["run"], *told["steps"]]
        run, *steps = [{name: _in(name, value) for name, value in row.items()} for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DurableError(
            f"this is no history of a run ({type(error).__name__}: {error}): Durable(app).export(run_id) makes one"
        ) from error
    if known != FORMAT:
        raise DurableError(f"this history is of the format {known!r}, and this version of the package reads {FORMAT}")
    return run, steps


def _in(name: str, value: Any) -> Any:
    return value if value is None or name not in _PAYLOADS else json.dumps(value, separators=(",", ":"))
