"""The store: every operation on the durable record, each one transaction and safe to do twice."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Executable, RowMapping
from sqlalchemy.exc import IntegrityError

from ..core.replay import Record
from ..errors import ConfigurationError, StartConflict
from .dialects import dialect_of, make_engine
from .link import Link
from .records import Claim, Due, Fence, NewRun, NotClaimed, Outcome, StepWrite
from .schema import check_schema, migrate
from .sealing import Sealer
from .statements import SETTLING_COLUMNS, STEP_COLUMNS, Statements
from .tables import Tables

__all__ = ["Store", "new_token"]


def new_token() -> int:
    """A token that no other holder of a run has ever had."""
    return secrets.randbits(62)


class Store:
    """The durable record of one application."""

    def __init__(
        self, url: str, *, prefix: str = "durable_", auto_migrate: bool = False, sealer: Sealer | None = None
    ) -> None:
        self.engine = make_engine(url)
        self.dialect = dialect_of(self.engine)
        self.prefix = prefix
        self.tables = Tables.build(prefix, sealer)
        self.statements = Statements(self.tables, self.dialect)
        self._auto_migrate = auto_migrate
        self._ready = not auto_migrate
        self._preparing = threading.Lock()

    # ----------------------------------------------------------------- schema

    def link(self) -> Link:
        """A connection to hold for a while."""
        if not self._ready:
            with self._preparing:
                if not self._ready:
                    migrate(self.engine, self.prefix)
                    self._ready = True
        return Link(self.engine, self.dialect)

    def migrate(self) -> bool:
        """Bring the schema to this code's version; whether there was anything to do."""
        return migrate(self.engine, self.prefix)

    def check_schema(self) -> None:
        """Raise ``ConfigurationError`` unless the schema is the one that this code needs."""
        with self.link() as link:
            link.run(lambda connection: check_schema(connection, self.prefix))

    # ------------------------------------------------------------------ start

    def start(self, link: Link, run: NewRun, patience: float = 0.0) -> bool:
        """Record a run. ``False`` where the same start was made before; ``StartConflict`` where another was."""
        values = self._start_values(run) | {
            "status": "pending",
            "token": new_token(),
            "waiting_on": "a worker",
            "due_in": run.due_in,
            "wake_in": run.wake_in,
            "passes": 0,
            "begins": 0,
            "worker": None,
            "code_version": None,
        }
        inserted = link.run(lambda connection: self._insert(link, connection, values), patience)
        if not inserted:
            self._refuse_other_start(link, run)
        return inserted

    def start_claimed(
        self, link: Link, run: NewRun, worker: str, lease: int, code_version: str | None, patience: float = 0.0
    ) -> Claim | None:
        """Record a run whose message came without a row, and take it at once."""
        token = new_token()
        values = self._start_values(run) | {
            "status": "running",
            "token": token,
            "waiting_on": None,
            "due_in": lease,
            "wake_in": None,
            "passes": 1,
            "begins": 1,
            "worker": worker,
            "code_version": code_version,
        }

        def insert(connection: Connection) -> Claim | None:
            if not self._insert(link, connection, values):
                return None
            row = self._row(connection, self.statements.claimed, at_id=run.id, token=token)
            return None if row is None else self._make_claim(run.id, token, row, [])

        return link.run(insert, patience)

    def _start_values(self, run: NewRun) -> dict[str, Any]:
        return {
            "id": run.id,
            "task": run.task,
            "input_hash": run.input_hash,
            "arguments": run.arguments,
            "message": run.message,
            "retries": run.retries,
        }

    def _insert(self, link: Link, connection: Connection, values: Mapping[str, Any]) -> bool:
        if self.statements.start_at_once is not None:
            return connection.execute(self.statements.start_at_once, values).rowcount == 1
        with link.atomic(connection):
            inserted = connection.execute(self.statements.insert_run, values).rowcount == 1
            if inserted:
                connection.execute(self.statements.insert_input, values)
        return inserted

    def _refuse_other_start(self, link: Link, run: NewRun) -> None:
        row = link.run(lambda connection: self._row(connection, self.statements.started, at_id=run.id))
        if row is None or (row["task"], row["input_hash"]) == (run.task, run.input_hash):
            return
        other = f"task {row['task']}" if row["task"] != run.task else "other arguments"
        raise StartConflict(
            f"a run {run.id!r} was started before with {other}, so it was not started again as {run.task}. "
            "One id is one piece of work: use another task_id, or the same arguments."
        )

    # ------------------------------------------------------------------ claim

    def claim(
        self,
        link: Link,
        run_id: str,
        *,
        worker: str,
        lease: int,
        slack: int = 0,
        code_version: str | None = None,
        patience: float = 0.0,
    ) -> Claim | Outcome | NotClaimed:
        """Take a run that is due, or the delivery of a finished one; else say why not."""
        token = new_token()
        values = {
            "at_id": run_id,
            "token": token,
            "worker": worker,
            "lease": lease,
            "slack": slack,
            "code_version": code_version,
        }
        try:
            return link.run(lambda connection: self._claim(connection, values), patience)
        except ConfigurationError as error:
            # What is stored can't be read here. If the run was taken all the same, it is set aside.
            self.set_aside(link, Fence(run_id, token), f"codec: {error}")
            return NotClaimed("paused", why=str(error))

    def _claim(self, connection: Connection, values: Mapping[str, Any]) -> Claim | Outcome | NotClaimed:
        statements, run_id, token = self.statements, values["at_id"], values["token"]
        row: RowMapping | None
        if self.dialect.update_returning:
            row = connection.execute(statements.claim, values).mappings().first()
        else:
            taken = connection.execute(statements.claim, values).rowcount
            row = self._row(connection, statements.claimed, at_id=run_id, token=token) if taken else None
        if row is None:
            other = self._not_claimable(connection, values)
            if other is not None:
                return other
            row = self._row(connection, statements.claimed, at_id=run_id, token=token)
            if row is None:
                return NotClaimed("running")
        steps = connection.execute(statements.history, {"at_id": run_id}).all()
        return self._make_claim(run_id, token, row, steps)

    def _not_claimable(self, connection: Connection, values: Mapping[str, Any]) -> Outcome | NotClaimed | None:
        """Why the claim found nothing; ``None`` when an earlier try of this very claim took the run."""
        row = self._row(connection, self.statements.outcome, at_id=values["at_id"])
        if row is None:
            return NotClaimed(None)
        if row["token"] == values["token"]:
            return None
        if row["status"] in ("completed", "failed"):
            if connection.execute(self.statements.claim_delivery, values).rowcount:
                return Outcome(row["task"], row["status"], row["result"], row["error"])
            return NotClaimed(row["status"])
        early_by = max(0, (row["wake_at"] or 0) - row["now"])
        return NotClaimed(row["status"], early_by)

    @staticmethod
    def _make_claim(run_id: str, token: int, row: RowMapping, steps: Iterable[Any]) -> Claim:
        history = {step.id: Record(*step) for step in steps}
        return Claim(
            fence=Fence(run_id, token),
            now=int(row["now"]),
            created_at=row["created_at"],
            retries=row["retries"],
            recoveries=row["recoveries"],
            passes=row["passes"],
            wake_at=row["wake_at"],
            message=row["message"],
            arguments=row["arguments"],
            history=history,
        )

    # ------------------------------------------------------------------ steps

    def record(self, link: Link, fence: Fence, step: StepWrite, lease_until: int, patience: float = 0.0) -> bool:
        """Record a step's outcome (or its start). ``False`` when the fence stopped it."""
        write = self._record_known if step.known else self._record_new
        return link.run(lambda connection: write(link, connection, fence, step, lease_until), patience)

    def _record_new(
        self, link: Link, connection: Connection, fence: Fence, step: StepWrite, lease_until: int
    ) -> bool:
        values = self._step_values(step, STEP_COLUMNS[1:]) | {
            "at_id": fence.run_id,
            "at_token": fence.token,
            "lease_until": lease_until,
        }
        try:
            return connection.execute(self.statements.record_new, values).rowcount == 1
        except IntegrityError:
            # Only the holder of the token gets past the fence, and it knows all older rows: so this
            # row is its own, from a try whose answer was lost.
            return self._status_of(connection, fence.run_id, step.id) is not None

    def _record_known(
        self, link: Link, connection: Connection, fence: Fence, step: StepWrite, lease_until: int
    ) -> bool:
        at_run = {"at_id": fence.run_id, "at_token": fence.token, "lease_until": lease_until}
        if self.statements.record_known is None:
            with link.atomic(connection):
                if connection.execute(self.statements.fence, at_run).rowcount != 1:
                    return False
                connection.execute(self.statements.update_step, self._settling(fence, step))
            return True
        values = self._settling(fence, step) | at_run
        if connection.execute(self.statements.record_known, values).rowcount == 1:
            return True
        holding = self._has_token(connection, fence.run_id, fence.token)
        return holding and self._status_of(connection, fence.run_id, step.id) == step.status

    def record_within(self, connection: Connection, fence: Fence, step: StepWrite, lease_until: int) -> bool:
        """Record a step in a transaction of the caller's: ``step.transaction``."""
        at_run = {"at_id": fence.run_id, "at_token": fence.token, "lease_until": lease_until}
        if connection.execute(self.statements.fence, at_run).rowcount != 1:
            return False
        self._write_step(connection, fence, step)
        return True

    def step_status(self, link: Link, fence: Fence, step_id: str, patience: float = 0.0) -> str | None:
        """How a step is recorded now: to learn the outcome of a commit that gave no answer."""
        return link.run(lambda connection: self._status_of(connection, fence.run_id, step_id), patience)

    def _write_step(self, connection: Connection, fence: Fence, step: StepWrite) -> None:
        if step.known:
            connection.execute(self.statements.update_step, self._settling(fence, step))
        else:
            values = self._step_values(step, STEP_COLUMNS[1:]) | {"step_run_id": fence.run_id}
            connection.execute(self.statements.insert_step, values)

    def _settling(self, fence: Fence, step: StepWrite) -> dict[str, Any]:
        return self._step_values(step, SETTLING_COLUMNS) | {"at_id": fence.run_id, "at_step": step.id}

    @staticmethod
    def _step_values(step: StepWrite, columns: Iterable[str]) -> dict[str, Any]:
        return {f"step_{name}": getattr(step, name) for name in columns}

    def _status_of(self, connection: Connection, run_id: str, step_id: str) -> str | None:
        row = self._row(connection, self.statements.own_step, at_id=run_id, at_step=step_id)
        return None if row is None else str(row["status"])

    # -------------------------------------------------------------- hand-offs

    def suspend(
        self,
        link: Link,
        fence: Fence,
        *,
        step: StepWrite | None,
        wake_at: int | None,
        due_at: int | None,
        waiting_on: str,
        published: bool = False,
        retried: bool = False,
        error: str | None = None,
        reset: Iterable[str] = (),
        on_locked: Any = None,
        patience: float = 0.0,
    ) -> bool:
        """Park the run. ``on_locked`` is called while the run's row is locked and still ours."""
        token = new_token()
        values = {
            "at_id": fence.run_id,
            "at_token": fence.token,
            "token": token,
            "wake_at": wake_at,
            "due_at": due_at,
            "waiting_on": waiting_on[:500],
            "sends": int(published),
            "retried": int(retried),
            "error": error,
        }
        ids = list(reset)

        def park(connection: Connection) -> bool:
            with link.atomic(connection):
                if connection.execute(self.statements.suspend, values).rowcount != 1:
                    return self._has_token(connection, fence.run_id, token)
                if on_locked is not None:
                    on_locked()
                if step is not None:
                    self._write_step(connection, fence, step)
                if ids:
                    connection.execute(self.statements.reset_steps, {"at_id": fence.run_id, "ids": ids})
            return True

        return link.run(park, patience)

    def pause(self, link: Link, fence: Fence, *, waiting_on: str, error: str | None, patience: float = 0.0) -> bool:
        """Park the run for a person, with the reason."""
        token = new_token()
        values = {
            "at_id": fence.run_id,
            "at_token": fence.token,
            "token": token,
            "waiting_on": waiting_on[:500],
            "error": error,
        }

        def park(connection: Connection) -> bool:
            if connection.execute(self.statements.pause, values).rowcount == 1:
                return True
            return self._has_token(connection, fence.run_id, token)

        return link.run(park, patience)

    def finish(
        self,
        link: Link,
        fence: Fence,
        *,
        status: str,
        now: int,
        lease: int,
        result: str | None = None,
        error: str | None = None,
        patience: float = 0.0,
    ) -> bool:
        """End the run. Its result is then to be delivered within the lease."""
        values = {
            "at_id": fence.run_id,
            "at_token": fence.token,
            "status": status,
            "due_at": now + lease,
            "finished_at": now,
            "result": result,
            "error": error,
        }

        def end(connection: Connection) -> bool:
            if connection.execute(self.statements.finish, values).rowcount == 1:
                return True
            row = self._row(connection, self.statements.outcome, at_id=fence.run_id)
            return row is not None and row["token"] == fence.token and row["status"] == status

        return link.run(end, patience)

    # ----------------------------------------------------------------- upkeep

    def extend(self, link: Link, fences: Iterable[Fence], lease: int) -> None:
        """Heartbeat: these runs are still being executed."""
        rows = [{"at_id": fence.run_id, "at_token": fence.token, "lease": lease} for fence in fences]
        if rows:
            link.run(lambda connection: connection.execute(self.statements.extend, rows))

    def mark_delivered(self, link: Link, run_ids: Iterable[str]) -> None:
        """The results of these runs have been handed to Celery, callbacks and all."""
        ids = list(run_ids)
        if ids:
            link.run(lambda connection: connection.execute(self.statements.delivered, {"ids": ids}))

    def due(self, link: Link, limit: int) -> list[Due]:
        """The runs that time has come for, longest due first, with what is needed to send them."""

        def look(connection: Connection) -> list[Due]:
            rows = connection.execute(self.statements.due, {"limit": limit}).all()
            if not rows:
                return []
            given = self._inputs(link, connection, rows)
            found = []
            for row in rows:
                due = Due(
                    fence=Fence(row.id, row.token),
                    task=row.task,
                    status=row.status,
                    due_at=row.due_at,
                    wake_at=row.wake_at,
                    sends=row.sends,
                    retries=row.retries,
                    recoveries=row.recoveries,
                    passes=row.passes,
                    worker=row.worker,
                    now=int(row.now),
                )
                if row.id in given:
                    found.append(replace(due, arguments=given[row.id][0], message=given[row.id][1]))
            return found

        return link.run(look)

    def _inputs(self, link: Link, connection: Connection, rows: Iterable[Any]) -> dict[str, tuple[str, str]]:
        """What runs were started with. One that can't be read is set aside, and stops no other."""

        def read(ids: list[str]) -> dict[str, tuple[str, str]]:
            found = connection.execute(self.statements.inputs, {"ids": ids}).all()
            return {item.run_id: (item.arguments, item.message) for item in found}

        try:
            return read([row.id for row in rows])
        except ConfigurationError:
            given: dict[str, tuple[str, str]] = {}
            for row in rows:
                try:
                    given |= read([row.id])
                except ConfigurationError as error:
                    self.set_aside(link, Fence(row.id, row.token), f"codec: {error}")
            return given

    def set_aside(self, link: Link, fence: Fence, waiting_on: str) -> bool:
        """Park a run for a person, whatever it was doing."""
        values = {
            "at_id": fence.run_id,
            "at_token": fence.token,
            "token": new_token(),
            "waiting_on": waiting_on[:500],
        }
        return self._changed(link, self.statements.set_aside, values)

    def mark_sent(self, link: Link, marks: Iterable[tuple[Fence, int, bool]]) -> None:
        """Runs whose message is on its way, each with the time until it is looked at again."""
        rows = [
            {"at_id": fence.run_id, "at_token": fence.token, "due_in": due_in, "sent": int(sent)}
            for fence, due_in, sent in marks
        ]
        if rows:
            link.run(lambda connection: connection.execute(self.statements.mark_sent, rows))

    def recover(self, link: Link, fence: Fence, *, pause_because: str | None = None) -> bool:
        """Take a run away from a worker that died; with a reason, park it for a person instead."""
        values = {
            "at_id": fence.run_id,
            "at_token": fence.token,
            "token": new_token(),
            "status": "suspended" if pause_because is None else "paused",
            "waiting_on": "a worker, its last one died" if pause_because is None else pause_because[:500],
        }
        return self._changed(link, self.statements.recover, values)

    def running_under(self, link: Link, run_id: str, worker: str) -> tuple[Fence, int] | None:
        """The fence and recoveries of a run, if this worker holds it."""
        row = link.run(
            lambda connection: self._row(connection, self.statements.running_under, at_id=run_id, worker=worker)
        )
        return None if row is None else (Fence(run_id, row["token"]), row["recoveries"])

    def unregistered(self, link: Link, run_id: str, *, delay: int, pause_because: str | None, waiting_on: str) -> bool:
        """A worker got a run whose task it does not know: try elsewhere later, or park it for a person."""
        values = {
            "at_id": run_id,
            "token": new_token(),
            "status": "suspended" if pause_because is None else "paused",
            "delay": delay,
            "waiting_on": (pause_because or waiting_on)[:500],
        }
        return self._changed(link, self.statements.unregistered, values)

    def end_from_outside(
        self, link: Link, run_id: str, *, status: str, error: str | None, worker: str | None = None
    ) -> bool:
        """End a run that Celery itself has ended: a hard time limit, a revoke, an expiry."""
        values = {"at_id": run_id, "token": new_token(), "status": status, "error": error, "worker": worker}
        return self._changed(link, self.statements.end_from_outside, values)

    def resume_paused(self, link: Link, run_id: str) -> bool:
        return self._changed(link, self.statements.resume_paused, {"at_id": run_id})

    def reconsider(self, link: Link, tasks: Iterable[str]) -> int:
        """Let runs that were parked for their code go on: this worker may bring the code that fits."""
        names = list(tasks)
        if not names:
            return 0
        return link.run(lambda connection: connection.execute(self.statements.reconsider, {"tasks": names}).rowcount)

    def skip_wait(self, link: Link, run_id: str) -> None:
        """Eager mode: what the run waits for is over now."""

        def skip(connection: Connection) -> None:
            connection.execute(self.statements.skip_wait, {"at_id": run_id})
            connection.execute(self.statements.skip_waiting_steps, {"at_id": run_id})

        link.run(skip)

    def take_lease(self, link: Link, name: str, holder: str, lease: int) -> bool:
        """Take or keep a named lease."""
        values = {"at_name": name, "holder": holder, "lease": lease}

        def take(connection: Connection) -> bool:
            if connection.execute(self.statements.lease_take, values).rowcount:
                return True
            return connection.execute(self.statements.lease_make, values).rowcount == 1

        return link.run(take)

    def drop_lease(self, link: Link, name: str, holder: str) -> None:
        self._changed(link, self.statements.lease_drop, {"at_name": name, "holder": holder})

    # ---------------------------------------------------------------- reading

    def get(self, link: Link, run_id: str) -> tuple[RowMapping, list[RowMapping]] | None:
        """A run's row and its steps' rows."""

        def read(connection: Connection) -> tuple[RowMapping, list[RowMapping]] | None:
            row = self._row(connection, self.statements.get_run, at_id=run_id)
            if row is None:
                return None
            return row, list(connection.execute(self.statements.get_steps, {"at_id": run_id}).mappings())

        return link.run(read)

    def now(self, link: Link) -> int:
        return int(link.run(lambda connection: connection.execute(self.statements.now).scalar_one()))

    # ---------------------------------------------------------------- helpers

    def _has_token(self, connection: Connection, run_id: str, token: int) -> bool:
        row = self._row(connection, self.statements.outcome, at_id=run_id)
        return row is not None and row["token"] == token

    @staticmethod
    def _row(connection: Connection, statement: Executable, **values: Any) -> RowMapping | None:
        return connection.execute(statement, values).mappings().first()

    @staticmethod
    def _changed(link: Link, statement: Executable, values: Mapping[str, Any]) -> bool:
        return link.run(lambda connection: connection.execute(statement, values).rowcount > 0)


