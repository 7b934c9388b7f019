"""Reading and operating runs, whatever executes them."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import RowMapping

from .core.codec import decode
from .core.duration import as_datetime
from .core.faults import summary
from .errors import RunNotFound, WrongStatus
from .model import ErrorInfo, Run, RunStatus, StepRecord, StepStatus
from .store.store import Store

__all__ = ["Client"]


class Client:
    """Operations on one app's runs. Every one of them can be done twice."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def migrate(self) -> bool:
        """Make or upgrade the tables; whether there was anything to do."""
        return self._store.migrate()

    def get(self, run_id: str) -> Run:
        """One run with its steps. Raises ``RunNotFound``."""
        with self._store.link() as link:
            found = self._store.get(link, run_id)
            now = self._store.now(link)
        if found is None:
            raise RunNotFound(f"there is no run {run_id!r} in {self._where()}")
        return _run(*found, now)

    def resume(self, run_id: str) -> Run:
        """Let a paused run go on from its last recorded step."""
        with self._store.link() as link:
            resumed = self._store.resume_paused(link, run_id)
        run = self.get(run_id)
        if not resumed and run.status in ("completed", "failed", "cancelled"):
            raise WrongStatus(f"run {run_id!r} is {run.status}: only a paused run can be resumed")
        return run

    def _where(self) -> str:
        return self._store.engine.url.render_as_string(hide_password=True)


def _run(row: RowMapping, steps: list[RowMapping], now: int) -> Run:
    args, kwargs = decode(row["arguments"]) if row["arguments"] else (None, None)
    return Run(
        id=row["id"],
        task=row["task"],
        status=cast(RunStatus, row["status"]),
        args=args,
        kwargs=kwargs,
        result=_value(row["result"]),
        error=_error(row["error"]),
        waiting_on=row["waiting_on"],
        wake_at=_time(row["wake_at"]) if row["status"] in ("pending", "suspended") else None,
        passes=row["passes"],
        retries=row["retries"],
        recoveries=row["recoveries"],
        worker=row["worker"] if row["status"] == "running" else None,
        code_version=row["code_version"],
        created_at=as_datetime(row["created_at"]),
        started_at=_time(row["started_at"]),
        finished_at=_time(row["finished_at"]),
        delivered_at=_time(row["delivered_at"]),
        steps=tuple(_step(step, now) for step in steps),
    )


def _step(row: RowMapping, now: int) -> StepRecord:
    # That a sleep is over follows from the time: nothing is written for it.
    over = row["kind"] == "sleep" and row["status"] == "waiting" and row["wake_at"] <= now
    return StepRecord(
        id=row["id"],
        position=row["position"],
        kind=row["kind"],
        function=row["function"],
        status="completed" if over else cast(StepStatus, row["status"]),
        input=_value(row["input"]),
        result=_value(row["result"]),
        error=_error(row["error"]),
        attempts=row["attempts"],
        heartbeat=_value(row["heartbeat"]),
        wake_at=_time(row["wake_at"]),
        started_at=_time(row["started_at"]),
        finished_at=_time(row["wake_at"] if over else row["finished_at"]),
    )


def _value(text: str | None) -> Any:
    return None if text is None else decode(text)


def _error(text: str | None) -> ErrorInfo | None:
    return None if text is None else ErrorInfo(**summary(text))


def _time(instant: int | None) -> Any:
    return None if instant is None else as_datetime(instant)
