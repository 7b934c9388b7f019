"""Reading runs, events and logs."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable
from typing import Any, get_args

from ..core.duration import Moment, moment
from ..errors import EventNotFound, RunNotFound
from ..model import AuditRecord, EventRecord, LogRecord, Page, Run, RunStatus, StepRecord
from ..store.finding import Filter
from ..store.store import Store
from .histories import history_text
from .outlines import outlined
from .views import deed_of, event_of, line_of, run_of, step_of, value_of

__all__ = ["STATUSES", "Reader", "check_limit", "filtered"]

_STEPS_AT_ONCE = 1000
_TAKERS_IN_PAGE = 100
STATUSES = get_args(RunStatus)


class Reader:
    """What can be asked about one app's runs."""

    def __init__(self, store: Callable[[], Store], redact: Callable[[Any], Any]) -> None:
        self._opened = store
        self._redact = redact

    @property
    def _store(self) -> Store:
        return self._opened()

    def identity(self) -> str:
        """What tells this database from every other, by whatever name it is reached."""
        with self._store.link() as link:
            return self._store.identity(link)

    def get(self, run_id: str, *, values: bool = True) -> Run:
        """One run with its steps, its children, its copies, and what was done to it. Raises ``RunNotFound``.

        With ``values=False`` its steps come in outline, of which a run of thousands has its own quickly: without their
        inputs, results, heartbeats and earlier attempts, and of an error its type and message alone. ``steps`` has
        some of them in full.
        """
        store = self._store
        with store.link() as link:
            found = store.get(link, run_id) if values else store.outline(link, run_id)
            if found is None:
                raise self._not_found(run_id)
            row, steps = found
            now = store.now(link)
            return run_of(
                row,
                self._redact,
                steps=tuple(step_of(step, self._redact, now) for step in steps) if values else outlined(steps, now),
                children=tuple(store.children(link, run_id)),
                copies=tuple(store.copies_of(link, run_id)),
                started_by=store.started_by(link, run_id),
                audit=tuple(deed_of(deed) for deed in store.deeds(link, run_id)),
            )

    def steps(self, run_id: str, ids: Iterable[str]) -> tuple[StepRecord, ...]:
        """These steps of a run in full, in the order of their positions: at most 1,000. One that it has not recorded
        is left out. Raises ``RunNotFound``."""
        wanted = [] if isinstance(ids, str) else list(dict.fromkeys(ids))
        if isinstance(ids, str) or len(wanted) > _STEPS_AT_ONCE:
            raise ValueError(f"ids={reprlib.repr(ids)}: a list of at most {_STEPS_AT_ONCE:,} ids of steps is expected")
        store = self._store
        with store.link() as link:
            rows = store.some_steps(link, run_id, wanted)
            if not rows and store.status(link, run_id) is None:
                raise self._not_found(run_id)
            now = store.now(link)
        return tuple(step_of(row, self._redact, now) for row in rows)

    def export(self, run_id: str, *, redact: bool = False) -> str:
        """A run's history as JSON, to be kept in a file: ``celery_durable.testing.check_history`` replays it against
        the code as it is then. ``redact`` takes secrets out of inputs, also out of those that the body is given."""
        with self._store.link() as link:
            found = self._store.get(link, run_id)
        if found is None:
            raise self._not_found(run_id)
        row, steps = found
        return history_text(row, steps, self._redact if redact else None)

    def runs(
        self,
        *,
        status: RunStatus | Iterable[RunStatus] | None = None,
        task: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        search: str | None = None,
        parent: str | None = None,
        waiting_on: str | None = None,
        event: str | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> Page[Run]:
        """The newest runs, a page at a time, without their steps. Go on with ``after=page.next``.

        ``search`` looks for a text in ids, inputs, results and errors; where these are sealed by ``durable_codec``, in
        ids alone. ``waiting_on`` is an event's name or a part of what ``Run.waiting_on`` says; ``event`` the id of an
        event that the run took or was started by.

        With ``search`` or ``waiting_on`` one page looks into 10,000 runs, newest first, and has what it found in them:
        it may be short, or empty, while there is more. ``page.next`` is ``None`` at the end only. The run whose id is
        what is searched comes first, whatever its age.
        """
        wanted = filtered(
            status=status, task=task, since=since, until=until, search=search, parent=parent, waiting_on=waiting_on,
            event=event,
        )  # fmt: skip
        rows, following = self._page(wanted, limit, after)
        return Page((run_of(row, self._redact) for row in rows), following)

    def _page(self, wanted: Filter, limit: int, after: str | None) -> tuple[list[Any], str | None]:
        check_limit(limit)
        with self._store.link() as link:
            rows, following = self._store.list_runs(link, wanted, limit=limit, before=_place(after))
        return rows, None if following is None else f"{following[0]}:{following[1]}"

    def audit(self, *, limit: int = 100, after: str | None = None) -> Page[AuditRecord]:
        """What was done to runs, by whom and why, newest first."""
        check_limit(limit)
        with self._store.link() as link:
            rows = self._store.deeds(link, None, limit=limit + 1, before_seq=_number(after))
        return Page((deed_of(row) for row in rows[:limit]), str(rows[limit - 1]["seq"]) if len(rows) > limit else None)

    def logs(self, run_id: str) -> tuple[LogRecord, ...]:
        """What a run said by ``get_logger``, where ``durable_store_logs`` keeps it. Raises ``RunNotFound``."""
        with self._store.link() as link:
            lines = self._store.log_of(link, run_id)
            if not lines and self._store.status(link, run_id) is None:
                raise self._not_found(run_id)
        return tuple(line_of(line) for line in lines)

    def state(self, task: str) -> dict[str, Any]:
        """What ``step.state`` of this task's runs holds."""
        with self._store.link() as link:
            return {row["key"]: value_of(row["value"]) for row in self._store.states_of(link, task)}

    def event(self, event_id: str) -> EventRecord:
        """One event: what it holds, whom it woke, and what it started. Raises ``EventNotFound``."""
        with self._store.link() as link:
            found = self._store.logged_event(link, event_id)
        if found is None:
            raise EventNotFound(
                f"there is no event {event_id!r} in {self._where()}: it was not emitted, its transaction was rolled "
                "back, or it is older than durable_event_retention"
            )
        return event_of(found)

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
        check_limit(limit)
        with self._store.link() as link:
            found = self._store.logged_events(
                link,
                name=name,
                key=key,
                since=None if since is None else moment(since),
                before_seq=_number(after),
                limit=limit + 1,
                most=_TAKERS_IN_PAGE,
            )
        following = str(found[limit - 1].row["seq"]) if len(found) > limit else None
        return Page((event_of(logged) for logged in found[:limit]), following)

    def _not_found(self, run_id: str) -> RunNotFound:
        return RunNotFound(f"there is no run {run_id!r} in {self._where()}")

    def _where(self) -> str:
        return self._store.engine.url.render_as_string(hide_password=True)


def filtered(
    *, status: RunStatus | Iterable[RunStatus] | None, since: Moment | None, until: Moment | None, **others: str | None
) -> Filter:
    """Which runs are meant, checked."""
    statuses = (status,) if isinstance(status, str) else tuple(status or ())
    unknown = [name for name in statuses if name not in STATUSES]
    if unknown:
        raise ValueError(f"status={unknown[0]!r}: one of {', '.join(STATUSES)} is expected")
    for name, value in others.items():
        if value is not None and (not isinstance(value, str) or not value):
            raise ValueError(f"{name}={value!r}: a string is expected")
    return Filter(
        None if status is None else statuses,
        since=None if since is None else moment(since),
        until=None if until is None else moment(until),
        **others,
    )


def check_limit(limit: int) -> None:
    """Refuse what is no length of a page."""
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= 1000:
        raise ValueError(f"limit={limit!r}: a whole number from 1 to 1000 is expected")


def _number(after: str | None) -> int | None:
    if after is None:
        return None
    # As far as the database counts. Digits without end are not even to be made a number.
    if not (after.isascii() and after.isdecimal() and len(after) < 20 and int(after) < 2**63):
        raise ValueError(f"after={after!r:.100}: what page.next was is expected")
    return int(after)


def _place(after: str | None) -> tuple[int, str] | None:
    if after is None:
        return None
    at, colon, run_id = after.partition(":")
    number = _number(at)
    if number is None or not run_id.isprintable() or not colon:
        raise ValueError(f"after={after!r:.100}: what page.next was is expected")
    return number, run_id
