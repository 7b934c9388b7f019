"""Undos: ``step.on_rollback``.

The body registers them as it goes, in every pass anew; nothing is written for that. When the body is left by an error
that nobody retries, or by its cancelling, it is recorded that the rollback has begun, and why: from there on the run
can only end so, whatever the body does in a later pass. Then the undos are done, the last first, each a step with
retries of its own, which may park the run. One that fails for good does not keep the others from being done.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..core.codec import encode, read_json
from ..core.faults import with_notes
from ..core.ids import ROLLBACK
from ..core.replay import Record
from ..errors import DamagedRecord
from ..store.records import StepWrite
from .branch import complete
from .passing import Pass
from .performing import Function
from .work import Work

__all__ = ["Rollback", "awaited", "begun", "register", "roll_back"]

logger = logging.getLogger("celery_durable")


@dataclass(frozen=True)
class Rollback:
    """Why a run is rolled back: the status that it ends with, and the error."""

    status: str
    error: str


def register(run: Pass, work: Work) -> None:
    """Have this done if the run fails or is cancelled. Its input is checked now."""
    run.undos.append(Function(run, work))


def begun(run: Pass) -> Rollback | None:
    """Why the run is being rolled back, if an earlier pass has begun to."""
    record = run.history.get(ROLLBACK)
    if record is None:
        return None
    return Rollback(_told(record)["status"], record.error or "{}")


def _told(record: Record) -> dict[str, Any]:
    """What the beginning of a rollback was recorded with."""
    told = read_json(record.result or "", dict)
    if not isinstance(told.get("status"), str) or not isinstance(told.get("undos"), list):
        raise DamagedRecord(f"the record of the rollback lacks a part: {record.result!r:.80}")
    return told


def roll_back(run: Pass, why: Rollback) -> Rollback:
    """Do the undos that the body has registered; the error with what could not be undone."""
    if not run.undos and begun(run) is None:
        return why
    run.put_last(ROLLBACK)
    if begun(run) is None:
        _begin(run, why, list(reversed(run.undos)))
    why = begun(run) or why
    run.end()
    then = _registered_then(run)
    undos: list[Function] = [undo for undo in reversed(run.undos) if undo.id in then]
    notes = []
    for undo in undos:
        run.put_last(undo.id)
        try:
            complete(run, undo)
        except Exception as error:
            if run.unwinding is not None:  # its code does not fit the run
                raise
            logger.error("run %s: its undo %r failed, and is given up: %s", run.run_id, undo.id, error)
            notes.append(f"celery_durable: the undo {undo.id!r} failed: {type(error).__name__}: {error}")
    notes += [
        f"celery_durable: the undo {step_id!r} was not done: the code that is deployed now does not register it"
        for step_id in then
        if step_id not in {undo.id for undo in undos}
    ]
    return Rollback(why.status, with_notes(why.error, notes))


def _begin(run: Pass, why: Rollback, undos: list[Function]) -> None:
    logger.warning("run %s is rolled back: %s", run.run_id, ", ".join(undo.id for undo in undos))
    told = encode({"status": why.status, "undos": [undo.id for undo in undos]})
    now = run.now()
    row = StepWrite(
        ROLLBACK, run.position_of(ROLLBACK), "rollback", "completed", result=told, error=why.error, attempts=1,
        seen=run.next_place(), started_at=now, finished_at=now,
    )  # fmt: skip
    run.write_all([row])


def _registered_then(run: Pass) -> list[str]:
    record = run.history.get(ROLLBACK)
    return list(_told(record)["undos"]) if record is not None else []


def awaited(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function that calls an async one: undos are done when the event loop of the body has ended."""
    if not inspect.iscoroutinefunction(inspect.unwrap(fn)):
        return fn

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(fn(*args, **kwargs))

    return call
