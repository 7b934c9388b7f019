"""A living system, one part at a time: an application, its database, its broker, its workers and their sweeper.

All of them are the real ones. A worker here takes the messages that are in the broker now and executes them, a sweeper
does one round, and time passes by having everything in the database happened longer ago.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import redis
from billiard.util import _run_after_forkers
from celery import Celery
from celery.utils.imports import symbol_by_name
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Delete,
    Engine,
    Select,
    Table,
    Update,
    bindparam,
    create_engine,
    literal,
    select,
    text,
    update,
)

from celery_durable import Durable
from celery_durable.core.duration import Duration, micros
from celery_durable.store.store import Store
from celery_durable.worker.runtime import flush_all, runtime_of
from celery_durable.worker.sweeper import Sweeper

from .corpus import Notes

__all__ = ["Saved", "System"]

_NO_TIMES = ("token", "event", "seq", "ttl", "version")
"""Numbers that are no points in time."""
_RESULTS = "celery-task-meta-*"
_MOST_ROUNDS = 40
_numbers = itertools.count()

Rows = list[dict[str, Any]]
Changing = TypeVar("Changing", Update, Delete, Select[Any])


class Saved:
    """All that was recorded at one moment, the messages that were on their way, and what Celery had as results."""

    def __init__(self, now: int, rows: dict[str, Rows], messages: list[Any], results: dict[Any, Any]) -> None:
        self.now = now
        self.rows = rows
        self.messages = messages
        self.results = results


class System:
    """One application. What its tasks do outside the record is noted in files, and in the table ``effects``."""

    def __init__(self, database_url: str, redis_url: str, folder: Path) -> None:
        self.queue = f"matrix-{next(_numbers)}"
        self.app = Celery("matrix", broker=redis_url, backend=redis_url, set_as_current=False)
        self.app.conf.update(
            durable_database_url=database_url, task_default_queue=self.queue, task_publish_retry=False,
            broker_transport_options={"priority_steps": [0]},
        )  # fmt: skip
        self.durable = Durable(self.app)
        self.durable.migrate()
        self.users: Engine = create_engine(database_url)
        """The engine of the application's own, on the same database."""
        with self.users.begin() as connection:
            connection.execute(text("CREATE TABLE effects (run_id VARCHAR(64), name VARCHAR(64))"))
        self._redis = redis.Redis.from_url(redis_url)
        self.folder = folder
        self._tables = self.store.tables.metadata.sorted_tables
        self._times = {table: _times(table) for table in self._tables}
        self._earlier = [self._all_earlier(table) for table, times in self._times.items() if times]

    @property
    def store(self) -> Store:
        return runtime_of(self.app).store

    def close(self) -> None:
        self.users.dispose()
        self.store.engine.dispose()
        self._redis.close()
        self.app.close()

    def after_fork(self) -> None:
        """In a forked child: no connection of the parent's is used. As a pool's process does it."""
        _run_after_forkers()
        self.app._after_fork()
        self.users.dispose(close=False)

    # ---------------------------------------------------------------- workers

    def take(self) -> list[Any]:
        """The messages in the broker, which has forgotten them then."""
        taken = []
        with self.app.connection_or_acquire() as connection:
            channel = connection.default_channel
            while (message := channel.basic_get(self.queue, no_ack=True)) is not None:
                taken.append(message)
        return taken

    def handle(self, messages: Iterable[Any]) -> None:
        """What a worker does about these messages."""
        for message in messages:
            task = self.app.tasks[message.headers["task"]]
            request = symbol_by_name(task.Request)(message, app=self.app, task=task, hostname="worker@here")
            request.execute()
        flush_all()

    def work(self) -> None:
        """Handle messages until there are none."""
        while messages := self.take():
            self.handle(messages)

    def sweep(self) -> None:
        """One round of a worker's sweeper."""
        sweeper = Sweeper(self.app)
        with self.store.link() as link:
            if sweeper._leads(link):
                sweeper.tick(link)
        sweeper.stop()

    def live(self) -> None:
        """Workers and sweepers do what there is to do, and time passes, until all that is left is up to people."""
        for _ in range(_MOST_ROUNDS):
            self.work()
            if self._is_quiet():
                return
            self.time_passes("1m")
            self.sweep()
        raise AssertionError(f"after {_MOST_ROUNDS} rounds there is still something to do: {self.rows()}")

    def _is_quiet(self) -> bool:
        of = self.store.tables
        dues = (of.run.c.due_at, of.run.c.queued_at, of.event.c.due_at)
        sweeping = of.lease.c.until > 0  # by one that has died: another has to lead
        busy: list[ColumnElement[bool]] = [*(column.is_not(None) for column in dues), sweeping]
        with self.store.engine.connect() as connection:
            if any(connection.execute(select(literal(1)).where(there).limit(1)).first() for there in busy):
                return False
        with self.store.link() as link:
            return not self.store.free_locks(link, 1)

    # ------------------------------------------------------------------- time

    def time_passes(self, duration: Duration) -> None:
        """Everything was longer ago, and comes sooner."""
        with self.users.begin() as connection:
            for statement in self._earlier:
                connection.execute(statement, {"by": micros(duration)})

    def _all_earlier(self, table: Table) -> Update:
        earlier: dict[str, Any] = {column.name: column - bindparam("by", type_=BigInteger) for column in _times(table)}
        return self._changing(table, update(table).values(earlier))

    def _changing(self, table: Table, statement: Changing) -> Changing:
        """Of leases only those that somebody has: a row without a time stands for something else."""
        return statement.where(table.c.until > 0) if table is self.store.tables.lease else statement

    # ------------------------------------------------------------------- rows

    def rows(self) -> dict[str, Rows]:
        """All that is recorded, by the table's name without its prefix."""
        with self.users.connect() as connection:
            found = {
                self._name_of(table): [
                    dict(row) for row in connection.execute(self._changing(table, table.select())).mappings()
                ]
                for table in self._tables
            }
            effects = connection.execute(text("SELECT run_id, name FROM effects")).mappings()
            return found | {"effects": [dict(row) for row in effects]}

    def save(self) -> Saved:
        """What there is now. The messages are taken out of the broker."""
        messages = self.take()
        results: dict[Any, Any] = {name: self._redis.get(name) for name in self._redis.keys(_RESULTS)}
        return Saved(self._now(), self.rows(), messages, results)

    def restore(self, saved: Saved) -> None:
        """Put the database where it was, as if it were now; no message and no effect is left."""
        later = self._now() - saved.now
        with self.users.begin() as connection:
            for table in self._tables:
                connection.execute(self._changing(table, table.delete()))
                rows = saved.rows[self._name_of(table)]
                if rows:
                    connection.execute(table.insert(), [self._moved(table, row, later) for row in rows])
            connection.execute(text("DELETE FROM effects"))
            for row in saved.rows["effects"]:
                connection.execute(text("INSERT INTO effects VALUES (:run_id, :name)"), row)
        self._redis.delete(self.queue, *self._redis.keys(_RESULTS))
        if saved.results:
            self._redis.mset(saved.results)
        for file in self.folder.iterdir():
            file.unlink()
        Notes.folder = self.folder

    def clear(self) -> None:
        """Nothing has ever happened, but that the tables were made."""
        self.restore(Saved(self._now(), {name: [] for name in self.rows()}, [], {}))

    def _moved(self, table: Table, row: dict[str, Any], later: int) -> dict[str, Any]:
        times = {column.name: row[column.name] for column in self._times[table]}
        return row | {name: at + later for name, at in times.items() if at}

    def _name_of(self, table: Table) -> str:
        return table.name.removeprefix(self.store.prefix)

    def _now(self) -> int:
        with self.store.link() as link:
            return self.store.now(link)


def _times(table: Table) -> list[Column[Any]]:
    return [column for column in table.c if isinstance(column.type, BigInteger) and column.name not in _NO_TIMES]
