"""Another session of the server, which holds what an operation needs."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event

from celery_durable.store.store import Store
from tests.waiting import wait_until

from .conftest import Faulty

__all__ = ["crossing", "holding"]

_WAITING = {
    "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE {0} = ANY(pg_blocking_pids(pid))",
    "mysql": "SELECT count(*) FROM information_schema.innodb_lock_waits w JOIN information_schema.innodb_trx t "
    "ON t.trx_id = w.blocking_trx_id WHERE t.trx_mysql_thread_id = {0}",
}
_OWN = {"postgresql": "SELECT pg_backend_pid()", "mysql": "SELECT CONNECTION_ID()"}
_HOLD_ALL = {"postgresql": "LOCK TABLE {0} IN EXCLUSIVE MODE", "mysql": "SELECT * FROM {0} FOR UPDATE"}
_PATIENT = {"postgresql": "SET deadlock_timeout = '60s'", "mysql": "SET innodb_lock_wait_timeout = 60"}


class _Rival:
    def __init__(self, faulty: Faulty, connection: Connection) -> None:
        self._kind = faulty.wire.kind
        self._faulty = faulty
        self._connection = connection
        self._number = connection.exec_driver_sql(_OWN[self._kind]).scalar()
        connection.exec_driver_sql(_PATIENT[self._kind])
        connection.exec_driver_sql("BEGIN")

    def run(self, statement: str) -> None:
        self._connection.exec_driver_sql(statement)

    def hold_all(self, table: str) -> None:
        self.run(_HOLD_ALL[self._kind].format(table))

    def is_waited_for(self) -> bool:
        with self._faulty.direct.engine.connect() as other:
            return bool(other.exec_driver_sql(_WAITING[self._kind].format(self._number)).scalar())

    def waits_for(self, number: int) -> bool:
        with self._faulty.direct.engine.connect() as other:
            return bool(other.exec_driver_sql(_WAITING[self._kind].format(number)).scalar())


@contextmanager
def _rival(faulty: Faulty) -> Iterator[_Rival]:
    with faulty.direct.engine.connect() as connection:
        try:
            yield _Rival(faulty, connection)
        finally:
            connection.exec_driver_sql("ROLLBACK")
            connection.invalidate()  # its settings are for this alone


@contextmanager
def holding(faulty: Faulty, *statements: str, until: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold what statements lock, until an operation waits for it, or until something has come about."""
    with _rival(faulty) as rival, ThreadPoolExecutor(1) as pool:
        for statement in statements:
            rival.run(statement)

        def let_go() -> None:
            wait_until(until or rival.is_waited_for, 30, "the operation waits")
            rival.run("COMMIT")

        letting_go = pool.submit(let_go)
        yield
        letting_go.result()


@contextmanager
def crossing(faulty: Faulty, victim: Store, first: str, last: str) -> Iterator[None]:
    """Hold the last table of a transaction and ask for its first, when it has that and is about to ask for the last."""
    with _rival(faulty) as rival, ThreadPoolExecutor(1) as pool:
        rival.run("INSERT INTO ballast VALUES " + ",".join(["(1)"] * 500))  # MariaDB chooses who has done less
        rival.hold_all(last)
        asking: list[Any] = []
        its_turn = threading.Lock()

        def cross(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
            written = re.search(rf"\b(INTO|UPDATE|DELETE FROM) {last}\b", statement)
            locked = "FOR UPDATE" in statement and last in statement
            if (written or locked) and not asking and its_turn.acquire(blocking=False):
                asking.append(pool.submit(rival.hold_all, first))
                driver: Any = connection.connection.driver_connection
                own = driver.info.backend_pid if hasattr(driver, "info") else driver.thread_id()
                wait_until(lambda: rival.waits_for(own), 30, "the rival waits for the operation")
                asking.append(pool.submit(rival.run, "ROLLBACK"))  # when it has got that

        event.listen(victim.engine, "before_cursor_execute", cross)
        try:
            yield
        finally:
            event.remove(victim.engine, "before_cursor_execute", cross)
        assert asking, f"nothing was written to {last}"
        for one in asking:
            one.result(30)
