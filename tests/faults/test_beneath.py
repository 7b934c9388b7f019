"""A connection that is lost where statements go beneath psycopg's cursor: as where they go by way of it, the operation
is done again, and what the lost one may have done counts once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, make_url

from celery_durable.store.link import Link
from celery_durable.store.records import Aftermath, Claim
from celery_durable.store.store import Store
from tests.store.making import LEASE, a_step, lease_of, new_run, prepared_on, run_row, step_rows, taken

from .wire import SILENT, UNANSWERED, UNSENT, Wire

PATIENCE = 30.0


@pytest.fixture(scope="module")
def wire(services: Any) -> Iterator[Wire]:
    with services.postgresql.fresh() as url:
        at_once = make_url(url).update_query_dict({"prepare_threshold": "0"})
        opened = Wire(at_once.render_as_string(hide_password=False))
        yield opened
        opened.cut()


@pytest.fixture(scope="module")
def store(wire: Wire) -> Iterator[Store]:
    opened = Store(wire.url, answer_within=1.0)
    opened.migrate()
    yield opened
    opened.engine.dispose()


def starting(store: Store, link: Link, run_id: str) -> Callable[[], Any]:
    return lambda: store.start(link, new_run(run_id), PATIENCE)


def claiming(store: Store, link: Link, run_id: str) -> Callable[[], Any]:
    store.start(link, new_run(run_id))
    return lambda: isinstance(store.claim(link, run_id, worker="w", lease=LEASE, patience=PATIENCE), Claim)


def recording(store: Store, link: Link, run_id: str) -> Callable[[], Any]:
    claim = taken(store, link, run_id)
    return lambda: store.record(link, claim.fence, a_step("s"), lease_of(claim), PATIENCE, is_fresh=True)


def ending(store: Store, link: Link, run_id: str) -> Callable[[], Any]:
    claim = taken(store, link, run_id)
    end: dict[str, Any] = {"status": "completed", "now": claim.now, "lease": LEASE, "result": "1"}
    return lambda: store.finish(link, claim.fence, **end, patience=PATIENCE) == Aftermath()


OPERATIONS = {"start": starting, "claim": claiming, "record": recording, "end": ending}


@pytest.mark.parametrize("how", [UNSENT, UNANSWERED, SILENT])
@pytest.mark.parametrize("what", OPERATIONS)
def test_an_operation_whose_connection_is_lost(wire: Wire, store: Store, what: str, how: str) -> None:
    run_id, passes = f"{what} {how}", {"start": 0}.get(what, 1)
    with store.link() as link:
        OPERATIONS[what](store, link, f"before {run_id}")()  # so that it is prepared
        assert link.run(prepared_on) > 0
        operation = OPERATIONS[what](store, link, run_id)
        link.run(lambda connection: wire.lose(connection, how))
        assert operation() is True
        assert not link.run(lambda connection: connection.connection.driver_connection.closed)  # type: ignore[union-attr]
        row = run_row(store, link, run_id)
        assert (row["passes"], row["status"]) == (passes, {"start": "pending", "end": "completed"}.get(what, "running"))
        assert list(step_rows(store, link, run_id)) == (["s"] if what == "record" else [])


def test_what_is_lost_in_a_transaction_is_taken_back(wire: Wire, store: Store) -> None:
    """And all of it is done again."""
    with store.link() as link:
        claim = taken(store, link, "in a transaction")
        tries: list[int] = []

        def write(connection: Connection) -> bool:
            tries.append(len(tries))
            with link.atomic(connection):
                if not tries[-1]:
                    wire.lose(connection, UNSENT)
                return store._count(connection, store.statements.pause, paused) == 1

        paused = {
            "at_id": "in a transaction",
            "at_token": claim.fence.token,
            "token": 7,
            "waiting_on": "x",
            "error": None,
        }
        assert link.run(write, PATIENCE)
        assert len(tries) == 2
        assert run_row(store, link, "in a transaction")["status"] == "paused"
