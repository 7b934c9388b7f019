"""The helper thread of a worker process, and the connection that it has."""

from __future__ import annotations

from typing import Any

from sqlalchemy import event

from celery_durable.core.duration import SECOND
from celery_durable.engine.keeper import Keeper
from celery_durable.store.store import Store
from tests.store.making import run_row, taken
from tests.waiting import wait_until


def tell_of_an_end(store: Store, keeper: Keeper, run_id: str) -> None:
    """A run ends, its result is told, and the keeper marks it so."""
    with store.link() as link:
        claim = taken(store, link, run_id)
        store.finish(link, claim.fence, status="completed", now=claim.now, lease=30 * SECOND, result="null")
    keeper.delivered(claim.fence)

    def delivered_at() -> Any:
        with store.link() as link:
            return run_row(store, link, run_id)["delivered_at"]

    wait_until(delivered_at)


def test_its_connection_is_its_own(any_store: Store) -> None:
    """It does not take one by turns with the passes, which would begin on another one each time."""
    keeper, pool = Keeper(any_store, lease=300 * SECOND), any_store.engine.pool
    of_passes = set()
    for number in range(4):
        tell_of_an_end(any_store, keeper, f"r{number}")
        assert pool.checkedout() == 1
        with any_store.link() as link:
            of_passes.add(id(link.run(lambda connection: connection.connection.dbapi_connection)))
    assert len(of_passes) == 1


def test_it_gives_its_connection_back_when_there_is_nothing_to_do(any_store: Store) -> None:
    keeper, pool = Keeper(any_store, lease=SECOND // 2), any_store.engine.pool
    tell_of_an_end(any_store, keeper, "r")
    wait_until(lambda: pool.checkedout() == 0)
    tell_of_an_end(any_store, keeper, "s")


def test_where_no_connection_is_kept_neither_does_it(database_url: str) -> None:
    """In Django's tests, which drop their database while the thread lives."""
    Store(database_url).migrate()
    store, now_open = Store(database_url, pooled=False), set[int]()
    event.listen(store.engine, "connect", lambda connection, _: now_open.add(id(connection)))
    event.listen(store.engine, "close", lambda connection, _: now_open.discard(id(connection)))
    tell_of_an_end(store, Keeper(store, lease=300 * SECOND), "r")
    wait_until(lambda: not now_open)
    assert store.engine.pool.status() == "NullPool"
