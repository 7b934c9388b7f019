"""A connection that is given back to its pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from celery_durable.store.store import Store

from .making import new_run

IN_TRANSACTION: dict[str, Callable[[Connection], Any]] = {
    "sqlite": lambda connection: connection.connection.driver_connection.in_transaction,  # type: ignore[union-attr]
    "postgresql": lambda connection: int(connection.connection.driver_connection.info.transaction_status),  # type: ignore[union-attr]
    "mysql": lambda connection: connection.exec_driver_sql("SELECT @@in_transaction").scalar(),
}


def test_the_server_is_asked_for_nothing(mysql_url: str) -> None:
    store = Store(mysql_url)
    store.migrate()

    def rollbacks() -> int:
        with store.link() as link:
            return int(link.run(lambda at: at.exec_driver_sql("SHOW SESSION STATUS LIKE 'Com_rollback'").all())[0][1])

    first, before = rollbacks(), rollbacks()
    for _ in range(3):
        with store.link() as link:
            store.start(link, new_run())
    assert rollbacks() - before == before - first  # those of looking
    store.engine.dispose()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_is_left_of_a_transaction_that_was_broken_off(store: Store, error: type[BaseException]) -> None:
    lease = store.tables.lease

    def broken_off(connection: Connection) -> None:
        with store.link().atomic(connection):
            connection.execute(insert(lease).values(name="half", holder="h", until=1))
            raise error

    with pytest.raises(error), store.link() as link:
        link.run(broken_off)
    with store.link() as link:
        assert not link.run(IN_TRANSACTION[store.dialect.name])
        names = link.run(lambda at: at.execute(lease.select().with_only_columns(lease.c.name)).scalars().all())
    assert "half" not in names
