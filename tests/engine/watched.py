"""A store that tells before each of its operations, for what is to happen in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from celery_durable.store.dialects import SQLITE, Dialect
from celery_durable.store.steady import Steady
from celery_durable.store.store import Store

__all__ = ["WatchedStore", "watched"]


class Standing(Steady):
    """The time that a pass takes: none."""

    def seconds(self) -> float:
        return 0.0


class WatchedStore(Store):
    """A store on SQLite with the test's clock."""

    clock = 0
    steady = Standing()
    tell: Callable[[], object] = staticmethod(lambda: None)

    def choose_dialect(self) -> Dialect:
        return replace(SQLITE, clock="test_now()")  # SQLite's own is a number of days, and 40 us are its finest step

    def tune(self, connection: Any, _record: Any) -> None:
        connection.create_function("test_now", 0, lambda: self.clock)
        connection.execute("PRAGMA synchronous = OFF")


def watched(*operations: str) -> type[WatchedStore]:
    """A kind of store that tells before these."""
    return type("Watched", (WatchedStore,), {name: _telling(name) for name in operations})


def _telling(name: str) -> Any:
    def call(store: WatchedStore, *args: Any, **kwargs: Any) -> Any:
        store.tell()
        return getattr(Store, name)(store, *args, **kwargs)

    return call
