"""What people do to runs: pause, resume, retry, copy, find, forget. Each leaves a row in the audit log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Executable, or_, select

from ..core.codec import decode
from ..core.ids import ROLLBACK
from ..errors import DurableError
from ..statuses import FINISHED
from .base import new_token
from .ending import PAUSED
from .handing import Handing
from .link import Link
from .records import Columns, Deed, NewEvent, NewRun, Origin

__all__ = ["Operating"]

FORGOTTEN_AT_ONCE = 100
"""Runs that one transaction deletes with all their rows."""


class Operating(Handing):
    """The client's operations. All can be done twice."""

    def pause_by_hand(self, link: Link, run_id: str, deed: Deed, waiting_on: str | None = None) -> bool:
        """Stop a run. Whoever executes it finds out at the next write, and hands back what came of its step."""
        reason = waiting_on or f"{PAUSED} by {deed.actor}" + (f": {deed.reason}" if deed.reason else "")
        return self._act(link, run_id, self.statements.pause_by_hand, deed, waiting_on=reason[:500])

    def resume_by_hand(self, link: Link, run_id: str, deed: Deed) -> bool:
        """Let a paused run go on."""
        return self._act(link, run_id, self.statements.resume_by_hand, deed)

    def _act(self, link: Link, run_id: str, statement: Executable, deed: Deed, **values: Any) -> bool:
        values |= {"at_id": run_id, "token": new_token()}

        def act(connection: Connection) -> bool:
            with link.atomic(connection):
                done = self._count(connection, statement, values) == 1
                if done:
                    self._note(self._on(connection).execute, run_id, deed)
                return done or self._has_token(connection, run_id, values["token"])  # by an earlier try

        return link.run(act)

    def retry_failed(self, link: Link, run_id: str, deed: Deed) -> str:
        """Let a failed run go on from the steps that it failed of: ``retried``, or why not: its status, ``missing``,
        or ``undone`` where its steps were."""

        token = new_token()

        def retry(connection: Connection) -> str:
            with link.atomic(connection):
                row = self._row(connection, self.statements.lock_run, at_id=run_id)
                if row is None or row["kind"] is not None:
                    return "missing"
                if row["status"] != "failed":
                    by_earlier_try = self._has_token(connection, run_id, token)
                    return "retried" if by_earlier_try else str(row["status"])
                at_run = {"at_id": run_id}
                if self._is_undone(connection, run_id):
                    return "undone"
                self._do(connection, self.statements.retry_failed, at_run | {"token": token})
                again, anew = decode(row["blamed"]) if row["blamed"] else ([], [])
                if again:
                    self._do(connection, self.statements.reset_steps, at_run | {"ids": again})
                self._do(connection, self.statements.drop_unfinished, at_run | {"ids": anew})
                self._note(self._on(connection).execute, run_id, deed)
                return "retried"

        return link.run(retry)

    # -------------------------------------------------------------------- copy

    def start_copy(self, link: Link, origin: Origin, copy_of: Callable[[Columns], NewRun], deed: Deed) -> str:
        """Start a run that is a copy: with the steps that came before one of the original's, or with none. What it is
        started with is made of what the original was. A copy is of one moment: nothing is recorded of the original
        meanwhile.

        ``started``, or why not: ``missing``, ``no step``, or ``undone`` where what its steps did was undone.
        """

        def copy(connection: Connection) -> str:
            with link.atomic(connection):
                at_run = {"at_id": origin.run_id}
                locked = self._row(connection, self.statements.lock_run, **at_run)
                original = self._row(connection, self.statements.original, **at_run)
                if locked is None or locked["kind"] is not None or original is None:
                    return "missing"
                before = 0
                if origin.step_id is not None:
                    if self._is_undone(connection, origin.run_id):
                        return "undone"
                    at_step = at_run | {"at_step": origin.step_id}
                    place = self._do(connection, self.statements.place_of_step, at_step).scalar()
                    if place is None:
                        return "no step"
                    before = place
                with link.lingering():
                    self._insert_copy(connection, replace(copy_of(original), origin=origin), before, deed)
                return "started"

        return link.run(copy)

    def _insert_copy(self, connection: Connection, run: NewRun, before: int, deed: Deed) -> None:
        assert run.origin is not None
        values = self._pending_values(run)
        # Its message is sent once this is committed.
        if not self._insert_both(self._on(connection).execute, run, values | {"sends": 0}):
            self._is_own_start(self._on(connection).execute, run, values["token"])  # raises where it is another run's
            return
        steps = {"at_id": run.origin.run_id, "new_id": run.id, "before": before}
        self._do(connection, self.statements.copy_steps, steps)
        self._do(connection, self.statements.copy_taken, steps)
        self._note(self._on(connection).execute, run.origin.run_id, deed)

    def _is_undone(self, connection: Connection, run_id: str) -> bool:
        """Whether a run was, or is being, rolled back."""
        at_rollback = {"at_id": run_id, "ids": [ROLLBACK]}
        return self._do(connection, self.statements.step_ids, at_rollback).first() is not None

    # ------------------------------------------------------------------ answer

    def answer(
        self,
        link: Link,
        run_id: str,
        step_id: str,
        event_for: Callable[[Columns, Sequence[Columns]], NewEvent],
        deed: Deed,
        due_in: int,
    ) -> tuple[NewEvent, bool] | None:
        """Emit the event that a step waits for. What it holds is made of what the step was given, while nothing is
        recorded of the run. With it, whether it was emitted now, and not before. ``None``: there is no such run."""

        def answer(connection: Connection) -> tuple[NewEvent, bool] | DurableError | None:
            at_run = {"at_id": run_id}
            with link.atomic(connection):
                locked = self._row(connection, self.statements.lock_run, **at_run)
                if locked is None or locked["kind"] is not None:
                    return None
                step = self._row(connection, self.statements.step_of_run, **at_run, at_step=step_id)
                assert step is not None
                waits = self._do(connection, self.statements.waits_of_run, at_run).mappings()
                try:
                    event = event_for(step, waits)
                except DurableError as refused:  # no error of the connection, which would be given up
                    return refused
                emitted = self.emit_within(self._on(connection).execute, event, due_in)
                if emitted:
                    self._note(self._on(connection).execute, run_id, deed)
                return event, emitted

        found = link.run(answer)
        if isinstance(found, DurableError):
            raise found
        return found

    # -------------------------------------------------------------------- read

    def copies_of(self, link: Link, run_id: str) -> list[str]:
        """The forks and replays of a run."""
        return [row.id for row in self._rows(link, self.statements.copies_of, {"at_id": run_id})]

    def started_by(self, link: Link, run_id: str) -> str | None:
        """The event that started a run."""
        found: str | None = link.run(lambda at: self._do(at, self.statements.starter_of, {"at_id": run_id}).scalar())
        return found

    def status(self, link: Link, run_id: str) -> str | None:
        """A run's status; ``None``: there is no such run."""
        row = link.run(lambda connection: self._row(connection, self.statements.outcome, at_id=run_id))
        return None if row is None else str(row["status"])

    def counts(self, link: Link) -> list[tuple[str, str, int]]:
        """How many runs there are, by task and status."""
        return [(row.task, row.status, row.runs) for row in self._rows(link, self.statements.counts, {})]

    def condition(self, link: Link) -> Columns:
        """How far behind things are, and who sweeps."""
        return link.run(lambda connection: self._do(connection, self.statements.condition, {}).mappings()[0])

    def ailments(self, link: Link) -> Columns:
        """How many runs wait for a person or in line, since when an event is due, who sweeps, and what time it is."""
        return link.run(lambda connection: self._do(connection, self.statements.ailments, {}).mappings()[0])

    def late(self, link: Link, *, within: int, limit: int) -> Sequence[Columns]:
        """The runs that are due, or will be within that time, longest due first."""
        values = {"within": within, "limit": limit}
        return link.run(lambda connection: self._do(connection, self.statements.late, values).mappings())

    def deeds(
        self, link: Link, run_id: str | None, *, limit: int = 1000, before_seq: int | None = None
    ) -> Sequence[Columns]:
        """The audit log of one run, oldest first; or of all, newest first."""
        if run_id is not None:
            return link.run(lambda at: self._do(at, self.statements.deeds_of, {"at_id": run_id}).mappings())
        statement = self.statements.deeds.limit(limit)
        if before_seq is not None:
            statement = statement.where(self.tables.audit.c.seq < before_seq)
        return link.run(lambda at: list(at.execute(statement).mappings()))

    # ------------------------------------------------------------------ forget

    def forget_runs(
        self, link: Link, *, older_than: int | None = None, deed_of: Callable[[int], Deed] | None = None
    ) -> int:
        """Delete one batch of finished runs with all their rows: those past their time, or older than that. ``deed_of``
        says what is kept of it, of how many there were."""
        statement, values = self.statements.past_keeping, {"limit": FORGOTTEN_AT_ONCE}
        if older_than is not None:
            statement, values = self.statements.finished_before, values | {"older_than": older_than}

        def forget(connection: Connection) -> int:
            ids = self._do(connection, statement, values).scalars()
            if not ids:
                return 0
            with link.atomic(connection):
                ended = self._do(connection, self.statements.lock_ended, {"ids": ids}).scalars()
                if ended:
                    with link.lingering():
                        for delete in self.statements.forget_rows.values():
                            self._do(connection, delete, {"ids": ended})
                        self._do(connection, self.statements.forget_runs, {"ids": ended})
                    self._note(self._on(connection).execute, None, deed_of and deed_of(len(ended)))
                return len(ended)

        return link.run(forget)

    def live_runs(self, link: Link, limit: int, after: tuple[int, str] | None) -> list[tuple[int, str]]:
        """The ids of runs that have not ended, oldest first, each with its time."""
        run = self.tables.run
        statement = (
            select(run.c.created_at, run.c.id)
            .where(run.c.status.not_in(FINISHED), run.c.kind.is_(None))
            .order_by(run.c.created_at, run.c.id)
            .limit(limit)
        )
        if after is not None:
            at, run_id = after
            statement = statement.where(run.c.created_at >= at, or_(run.c.created_at > at, run.c.id > run_id))
        return [(row.created_at, row.id) for row in self._found(link, statement)]

    def for_rehearsal(self, link: Link, run_id: str) -> tuple[Columns, Sequence[Any]] | None:
        """All that a pass would be given, if the run has not ended."""

        def read(connection: Connection) -> tuple[Columns, Sequence[Any]] | None:
            row = self._row(connection, self.statements.for_rehearsal, at_id=run_id)
            if row is None:
                return None
            return row, self._do(connection, self.statements.history, {"at_id": run_id}).rows

        return link.run(read)

    def durable_among(self, link: Link, ids: Iterable[str]) -> dict[str, str]:
        """Those of these task ids that are runs, with their statuses."""
        run = self.tables.run
        statement = select(run.c.id, run.c.status).where(run.c.id.in_(list(ids)), run.c.kind.is_(None))
        return {row.id: row.status for row in self._found(link, statement)}
