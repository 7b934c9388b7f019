"""What the groups of statements share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    FromClause,
    Table,
    and_,
    bindparam,
    case,
    literal,
    literal_column,
    or_,
    select,
    update,
)

from ...core.replay import Record
from ...statuses import FINISHED
from ..dialects import Dialect
from ..tables import Tables

__all__ = ["ENDED", "UNDER_WAY", "StatementGroup", "is_open", "of_one"]

ENDED = sorted(FINISHED)
UNDER_WAY = "the step that is under way"
"""What a run waits for that was stopped while a worker executed one: it is not taken from that worker until then."""


def is_open(run: FromClause) -> ColumnElement[bool]:
    """A run has not ended."""
    return and_(*(run.c.status != status for status in ENDED))


def of_one(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """The value of the one row that there is at most. Not a join, for which PostgreSQL reads whole tables while they
    are small, and goes on so while they grow."""
    return select(column).scalar_subquery()


class StatementGroup:
    """The tables and the dialect that statements are built for."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        self._tables = tables
        self._dialect = dialect

    def _of_history(self) -> list[ColumnElement[Any]]:
        """What a pass is given of a step. The attempts that have failed are to go on with the next one: of what has its
        answer they are not read."""
        step = self._tables.step
        tries = case((step.c.status.in_(("waiting", "started")), step.c.tries))
        return [tries if name == "tries" else step.c[name] for name in Record._fields]

    def _insert_or_ignore(self, table: Table, *unique: Column[Any]) -> Any:
        """An INSERT that changes nothing where the key is there already (the primary one, unless told)."""
        key = list(unique or table.primary_key)
        inserted: Any = self._dialect.insert(table)
        if self._dialect.name == "mysql":
            # IGNORE would let a too long text through cut off: every length is checked before.
            return inserted.prefix_with("IGNORE")
        return inserted.on_conflict_do_nothing(index_elements=key)

    def _emitting(self) -> Any:
        """Record an event, unless one of its id is there."""
        event, now = self._tables.event, self._dialect.now()
        given: dict[str, Any] = {
            name: bindparam(name, type_=event.c[name].type)
            for name in ("id", "name", "key", "payload", "content_hash", "emitted_by")
        }
        return self._insert_or_ignore(event, event.c.id).values(
            **given, emitted_at=now, due_at=now + bindparam("due_in", type_=BigInteger), sends=literal(0)
        )

    def _is_ours(self) -> ColumnElement[bool]:
        """Whether the run is executed by the holder of this token."""
        run = self._tables.run
        return and_(
            run.c.id == bindparam("at_id"), run.c.token == bindparam("at_token"), self._status(run) == "running"
        )

    def _status(self, run: FromClause) -> ColumnElement[str]:
        """The status of a run that is found by its id, on PostgreSQL as what no index has. The index by status has the
        id, too, and where few runs have a status the planner takes it for as good as the primary key. But each pass
        leaves dead rows there, and until these are cleaned away, every step would look through all of them."""
        status: ColumnElement[str] = run.c.status
        return status.concat(literal_column("''")) if self._dialect.name == "postgresql" else status

    def _fenced_run(self, **values: Any) -> Any:
        return update(self._tables.run).where(self._is_ours()).values(**values)

    def _is_held(self) -> Any:
        """Whether a worker executes a run, or has a step under way though the run was stopped."""
        run = self._tables.run
        return or_(
            run.c.status == "running",
            and_(run.c.status == "suspended", run.c.waiting_on == UNDER_WAY),
            and_(run.c.status == "paused", run.c.passes > 0, run.c.wake_at > self._dialect.now()),
        )

    def _waking(self, *which: Any, sends: int = 0) -> Any:
        """Make runs due that something has come for; ``sends`` is 1 where whoever does it sends their messages."""
        run, due_at = self._tables.run, self._dialect.now() + bindparam("due_in", type_=BigInteger)
        woken = update(run).where(*which, self._is_let_go())
        return woken.values(due_at=due_at, wake_at=None, sends=sends, waiting_on="a worker")

    def _is_let_go(self) -> ColumnElement[bool]:
        """No worker is at a step of a run that was stopped meanwhile."""
        run = self._tables.run
        return or_(run.c.waiting_on.is_(None), run.c.waiting_on != UNDER_WAY)

    def _suspended(self) -> dict[str, Any]:
        """What a run's row becomes when it is parked."""
        return {
            "status": "suspended",
            "token": bindparam("token"),
            "wake_at": bindparam("wake_at"),
            "due_at": bindparam("due_at"),
            "waiting_on": bindparam("waiting_on"),
            "sends": bindparam("sends"),
            "quorum": bindparam("quorum"),
            "retries": self._tables.run.c.retries + bindparam("retried"),
            "error": bindparam("error"),
        }

    def _begun_again(self) -> dict[str, Any]:
        """What a run's row becomes when its body is to begin again: it is due, and has its time and its tries anew."""
        now = self._dialect.now()
        return {
            "status": "suspended",
            "token": bindparam("token"),
            "retries": literal(0),
            "wake_at": now,
            "due_at": now,
            "deadline_at": None,
            "recoveries": 0,
            "progress": 0,
            "sends": 0,
            "quorum": None,
        }

    def _of_due(self) -> list[Any]:
        """What is read of a run whose message is to be sent."""
        run = self._tables.run
        columns = ("id", "task", "status", "token", "due_at", "wake_at", "sends", "retries", "passes", "worker", "kind")
        return [*(run.c[name] for name in columns), self._dialect.now().label("now")]
