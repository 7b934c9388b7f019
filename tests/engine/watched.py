"""A store that tells before each of its operations, for what is to happen in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy import event

from celery_durable.store.dialects import Dialect
from celery_durable.store.steady import Steady
from celery_durable.store.store import Store

__all__ = ["WatchedStore", "watched"]


class Standing(Steady):
    """The time that a pass takes: none."""

    def seconds(self) -> float:
        return 0.0


class WatchedStore(Store):
    """A store with the test's clock: on SQLite a function, in the other databases a table."""

    steady = Standing()
    tell: Callable[[], object] = staticmethod(lambda: None)
    _clock = 0

    @property
    def clock(self) -> int:
        return self._clock

    @clock.setter
    def clock(self, instant: int) -> None:
        self._clock = instant
        if self.dialect.name != "sqlite":
            with self.engine.connect() as connection:
                connection.exec_driver_sql(f"UPDATE test_clock SET instant = {instant:d}")

    def choose_dialect(self) -> Dialect:
        plain = super().choose_dialect()
        # SQLite's own is a number of days, and 40 us are its finest step.
        clock = "test_now()" if plain.name == "sqlite" else "(SELECT instant FROM test_clock)"
        return replace(plain, clock=clock)

    def wind_up(self) -> None:
        """Make the clock, and the tables."""
        event.listen(self.engine, "connect", self.tune)
        if self.dialect.name != "sqlite":
            with self.engine.connect() as connection:
                connection.exec_driver_sql("CREATE TABLE test_clock (instant BIGINT NOT NULL)")
                connection.exec_driver_sql("INSERT INTO test_clock VALUES (0)")
        self.migrate()

    def tune(self, connection: Any, _record: Any) -> None:
        """Commits wait for no disk, where a connection can say so."""
        if self.dialect.name == "sqlite":
            connection.create_function("test_now", 0, lambda: self.clock)
            connection.execute("PRAGMA synchronous = OFF")
        elif self.dialect.name == "postgresql":
            connection.execute("SET synchronous_commit = off")


def watched(*operations: str) -> type[WatchedStore]:
    """A kind of store that tells before these."""
    return type("Watched", (WatchedStore,), {name: _telling(name) for name in operations})


def _telling(name: str) -> Any:
    def call(store: WatchedStore, *args: Any, **kwargs: Any) -> Any:
        store.tell()
        return getattr(Store, name)(store, *args, **kwargs)

    return call
