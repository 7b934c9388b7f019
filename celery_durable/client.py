"""Reading and operating runs, whatever executes them."""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import RowMapping

from .core.codec import decode
from .core.duration import Moment, as_datetime, moment
from .core.faults import summary
from .errors import EventNotFound, RunNotFound, WrongStatus
from .model import FINISHED, ErrorInfo, EventRecord, Page, Run, RunStatus, StepRecord, StepStatus
from .store.eventlog import LoggedEvent
from .store.records import Aftermath
from .store.store import Store

__all__ = ["Client"]

_TAKERS_IN_PAGE = 100


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
            children = self._store.children(link, run_id)
        if found is None:
            raise RunNotFound(f"there is no run {run_id!r} in {self._where()}")
        return _run(*found, children, now)

    def resume(self, run_id: str) -> Run:
        """Let a paused run go on from its last recorded step."""
        with self._store.link() as link:
            resumed = self._store.resume_paused(link, run_id)
        run = self.get(run_id)
        if not resumed and run.status in FINISHED:
            raise WrongStatus(f"run {run_id!r} is {run.status}: only a paused run can be resumed")
        return run

    def cancel(self, run_id: str, *, force: bool = False, reason: str = "cancelled by hand") -> Run:
        """Cancel a run: its body gets ``RunCancelled`` where it has come to, and may clean up with steps; what it has
        called is cancelled, too. One that has not begun ends at once, as does any with ``force``.

        Can be done twice; a run that has ended otherwise raises ``WrongStatus``.
        """
        with self._store.link() as link:
            aftermath = self._store.cancel(link, run_id, reason, force=force)
        if aftermath is not None:
            self._follow(aftermath)
        run = self.get(run_id)
        if aftermath is None and run.status != "cancelled":
            raise WrongStatus(f"run {run_id!r} is {run.status}: it has ended and can't be cancelled any more")
        return run

    def _follow(self, aftermath: Aftermath) -> None:
        """Other runs have something to do: they are due, and the sweeper of a worker sends their messages."""

    def event(self, event_id: str) -> EventRecord:
        """One event: what it holds, whom it woke, and what it started. Raises ``EventNotFound``."""
        with self._store.link() as link:
            found = self._store.logged_event(link, event_id)
        if found is None:
            raise EventNotFound(
                f"there is no event {event_id!r} in {self._where()}: it was not emitted, its transaction was rolled "
                "back, or it is older than durable_event_retention"
            )
        return _event(found)

    def events(
        self,
        *,
        name: str | None = None,
        key: str | None = None,
        since: Moment | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Page[EventRecord]:
        """The newest events, a page at a time; ``name`` may end in ``*``. Go on with ``after=page.next``."""
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 1000:
            raise ValueError(f"limit={limit!r}: a whole number from 1 to 1000 is expected")
        if after is not None and not after.isdecimal():
            raise ValueError(f"after={after!r}: what page.next was is expected")
        with self._store.link() as link:
            found = self._store.logged_events(
                link,
                name=name,
                key=key,
                since=None if since is None else moment(since),
                before_seq=None if after is None else int(after),
                limit=limit + 1,
                most=_TAKERS_IN_PAGE,
            )
        following = str(found[limit - 1].row["seq"]) if len(found) > limit else None
        return Page((_event(logged) for logged in found[:limit]), following)

    def _where(self) -> str:
        return self._store.engine.url.render_as_string(hide_password=True)


def _run(row: RowMapping, steps: list[RowMapping], children: list[str], now: int) -> Run:
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
        parent=row["parent_id"],
        parent_step=row["parent_step"],
        children=tuple(children),
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
        child=row["child"],
        seen=row["seen"],
        wake_at=_time(row["wake_at"]),
        started_at=_time(row["started_at"]),
        finished_at=_time(row["wake_at"] if over else row["finished_at"]),
    )


def _event(logged: LoggedEvent) -> EventRecord:
    row = logged.row
    errors = _value(row["error"])
    return EventRecord(
        id=row["id"],
        name=row["name"],
        key=row["key"],
        payload=_value(row["payload"]),
        emitted_at=as_datetime(row["emitted_at"]),
        emitted_by=row["emitted_by"],
        dispatched_at=_time(row["dispatched_at"]),
        woke=tuple(logged.woke),
        started=tuple(logged.started),
        woke_total=logged.woke_total,
        started_total=logged.started_total,
        error="; ".join(errors) if errors else None,
    )


def _value(text: str | None) -> Any:
    return None if text is None else decode(text)


def _error(text: str | None) -> ErrorInfo | None:
    return None if text is None else ErrorInfo(**summary(text))


def _time(instant: int | None) -> Any:
    return None if instant is None else as_datetime(instant)
