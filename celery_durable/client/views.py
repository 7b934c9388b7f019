"""Rows as what a user reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from ..core.codec import decode, decode_arguments
from ..core.duration import as_datetime
from ..core.faults import legible, summary
from ..core.tries import Try, read_tries
from ..errors import DamagedRecord
from ..model import (
    AttemptRecord,
    AuditRecord,
    ErrorInfo,
    EventRecord,
    LogRecord,
    Progress,
    Run,
    RunStatus,
    StepRecord,
    StepStatus,
)
from ..store.eventlog import LoggedEvent
from ..store.records import Columns, LogLine

__all__ = ["deed_of", "error_of", "event_of", "line_of", "run_of", "step_of", "value_of"]

Row = Columns | Mapping[str, Any]
Redact = Callable[[Any], Any]


def run_of(row: Row, redact: Redact, **more: Any) -> Run:
    """A run. What it was started with is shown without secrets."""
    args, kwargs = redact(_arguments(row["arguments"]))
    origin = {"forked_from" if row["origin_step"] else "replayed_from": row["origin_id"]} if row["origin_id"] else {}
    return Run(
        id=row["id"],
        task=row["task"],
        status=cast(RunStatus, row["status"]),
        args=args,
        kwargs=kwargs,
        result=value_of(row["result"]),
        error=_error(row["error"]),
        waiting_on=row["waiting_on"],
        wake_at=_time(row["wake_at"]) if row["status"] in ("pending", "suspended") else None,
        cancelling=row["cancelling"] if row["status"] in ("suspended", "running") else None,
        deadline_at=_time(row["deadline_at"]),
        progress=_progress(row["reported"]),
        passes=row["passes"],
        retries=row["retries"],
        recoveries=row["recoveries"],
        generation=row["generation"] or 0,
        restarts=row["restarts"] or 0,
        worker=row["worker"] if row["status"] == "running" else None,
        code_version=row["code_version"],
        parent=row["parent_id"],
        parent_step=row["parent_step"],
        forked_at=row["origin_step"],
        created_at=as_datetime(row["created_at"]),
        started_at=_time(row["started_at"]),
        finished_at=_time(row["finished_at"]),
        delivered_at=_time(row["delivered_at"]),
        **origin,
        **more,
    )


def step_of(row: Row, redact: Redact, now: int) -> StepRecord:
    """A step with all that is recorded of it."""
    # That a sleep is over follows from the time: nothing is written for it.
    over = row["kind"] == "sleep" and row["status"] == "waiting" and row["wake_at"] <= now
    return StepRecord(
        id=row["id"],
        position=row["position"],
        kind=row["kind"],
        function=row["function"],
        status="completed" if over else cast(StepStatus, row["status"]),
        input=redact(value_of(row["input"])),
        result=value_of(row["result"]),
        error=_error(row["error"]),
        attempts=row["attempts"],
        tries=tuple(_attempt(one) for one in read_tries(row["tries"])),
        block=row["block"],
        heartbeat=value_of(row["heartbeat"]),
        child=row["child"],
        seen=row["seen"],
        wake_at=_time(row["wake_at"]),
        started_at=_time(row["started_at"]),
        finished_at=_time(row["wake_at"] if over else row["finished_at"]),
    )


def _attempt(one: Try) -> AttemptRecord:
    return AttemptRecord(
        number=one.number,
        started_at=_time(one.started_at),
        finished_at=_time(one.finished_at),
        error=ErrorInfo(type=one.type, message=one.message),
    )


def event_of(logged: LoggedEvent) -> EventRecord:
    """An event of the log."""
    row = logged.row
    return EventRecord(
        id=row["id"],
        name=row["name"],
        key=row["key"],
        payload=value_of(row["payload"]),
        emitted_at=as_datetime(row["emitted_at"]),
        emitted_by=row["emitted_by"],
        dispatched_at=_time(row["dispatched_at"]),
        woke=tuple(logged.woke),
        started=tuple(logged.started),
        woke_total=logged.woke_total,
        started_total=logged.started_total,
        error=_joined(value_of(row["error"])),
    )


def _joined(errors: Any) -> str | None:
    """What kept the tasks of an event from being started."""
    return legible("; ".join(map(str, errors)) if isinstance(errors, list) else str(errors)) if errors else None


def deed_of(row: Row) -> AuditRecord:
    """A row of the audit log."""
    return AuditRecord(
        run_id=row["run_id"],
        action=row["action"],
        actor=row["actor"],
        reason=row["reason"],
        at=as_datetime(row["at"]),
        details=value_of(row["details"]),
    )


def line_of(line: LogLine) -> LogRecord:
    """A line of a run's log."""
    return LogRecord(
        at=as_datetime(line.at),
        level=line.level,
        logger=line.logger,
        step_id=line.step_id,
        message=legible(str(value_of(line.message))),
    )


def value_of(text: str | None) -> Any:
    """A stored value. What can't be read is told in its place: a person has to find the run, and see what it has."""
    try:
        return None if text is None else decode(text)
    except DamagedRecord as damaged:
        return f"<{damaged}>"


def _arguments(text: str | None) -> tuple[Any, Any]:
    try:
        return (None, None) if text is None else decode_arguments(text)
    except DamagedRecord as damaged:
        return f"<{damaged}>", None


def _progress(text: str | None) -> Progress | None:
    said = value_of(text)
    if type(said) is not list or len(said) != 4:
        return None
    _, value, total, note = said
    return Progress(value=value, total=total, note=note if note is None else legible(str(note)))


def _error(text: str | None) -> ErrorInfo | None:
    return None if text is None else error_of(text)


def error_of(text: str) -> ErrorInfo:
    """A stored error, likewise."""
    try:
        return ErrorInfo(**summary(text))
    except DamagedRecord as damaged:
        return ErrorInfo(type="DamagedRecord", message=str(damaged))


def _time(instant: int | None) -> Any:
    return None if instant is None else as_datetime(instant)
