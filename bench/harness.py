"""What the benchmarks share: databases to run on, one run to execute, medians of alternating turns."""

from __future__ import annotations

import inspect
import os
import statistics
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError

from celery_durable.core.boundary import Boundary
from celery_durable.engine.executor import Finished, execute
from celery_durable.engine.passing import Pass
from celery_durable.engine.settings import Settings
from celery_durable.engine.tasks import drive
from celery_durable.store.records import Claim, NewRun
from celery_durable.store.store import Store

SERVERS = {
    "postgresql": ("DURABLE_TEST_POSTGRESQL", "postgresql+psycopg://postgres@127.0.0.1:5432/test"),
    "mysql": ("DURABLE_TEST_MYSQL", "mysql+pymysql://root@127.0.0.1:3306/test?charset=utf8mb4"),
}


class Silent:
    """A dispatcher for runs that nobody has to wake."""

    def may_send_ahead(self, delay: int) -> bool:
        return False

    def wake(self, delay: int) -> None: ...

    def target(self, signature: Any, queue: str | None) -> Any:
        raise AssertionError("nothing is called here")

    def task_name(self) -> str:
        return "bench"

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        raise AssertionError("nothing is begun anew here")

    def tell(self, what: str, **facts: Any) -> None: ...

    def follow(self, aftermath: Any) -> None:
        raise AssertionError("nothing is called here")

    def emitted(self, event_id: str, name: str, key: str | None) -> None: ...

    def announce(self, waiting_on: str, wake_at: int | None) -> None: ...

    def stopping(self) -> bool:
        return False


@contextmanager
def stores() -> Iterator[dict[str, Store]]:
    """A store with tables of its own on each database that answers; all of it is dropped afterwards."""
    made: dict[str, Store] = {}
    with tempfile.TemporaryDirectory() as folder:
        made["sqlite"] = Store(f"sqlite:///{Path(folder) / 'bench.db'}")
        made["sqlite"].migrate()
        for name, (variable, url) in SERVERS.items():
            store = Store(os.environ.get(variable, url), prefix=f"bench_{uuid.uuid4().hex[:6]}_")
            try:
                store.migrate()
            except DBAPIError:
                print(f"{name}: does not answer, left out (set {variable})")
                continue
            made[name] = store
        try:
            yield made
        finally:
            for store in made.values():
                store.tables.metadata.drop_all(store.engine)
                with store.engine.connect() as connection:
                    connection.exec_driver_sql(f"DROP TABLE {store.prefix}alembic_version")
                store.engine.dispose()


def one_pass(store: Store, body: Callable[[], Any], run_id: str | None = None) -> str:
    """Start a run (unless it is there) and execute its body once, to its end."""
    settings = Settings(max_steps=100_000)
    with store.link() as link:
        if run_id is None:
            run_id = uuid.uuid4().hex
            store.start(link, NewRun(run_id, "bench", "[[],{}]", "", "{}"))
        claim = store.claim(link, run_id, worker="bench", lease=settings.lease)
        assert isinstance(claim, Claim), claim
        run = Pass(
            claim, store=store, link=link, settings=settings, dispatcher=Silent(), step_retry=settings.step_retry
        )
        ended = execute(run, lambda: _driven(run, body()), Boundary())
        assert isinstance(ended, Finished), ended
    return run_id


def _driven(run: Pass, value: Any) -> Any:
    return drive(run, value) if inspect.iscoroutine(value) else value


def alternate(turns: int, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[float, float, float]:
    """Medians of both over alternating turns, and of the ratio within a turn."""
    pairs = [(ours(), theirs()) for _ in range(turns)]
    return (
        statistics.median(own for own, _ in pairs),
        statistics.median(other for _, other in pairs),
        statistics.median(own / other for own, other in pairs),
    )
