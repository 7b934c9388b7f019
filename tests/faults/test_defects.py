"""One test for each defect that the faults have brought up."""

from __future__ import annotations

import threading

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from celery_durable import Durable, Retry, step
from celery_durable.engine.executor import Finished
from celery_durable.store.records import Claim
from tests.alone import alone
from tests.engine.driving import Driver
from tests.store.making import LEASE, a_step, lease_of

from .conftest import Faulty
from .moments import Moments
from .scenes import Scene
from .test_lost import fault
from .wire import UNANSWERED


def test_an_event_whose_answer_was_lost_was_called_a_duplicate(faulty: Faulty) -> None:
    """And nobody was told of it."""
    app = alone("emitting")
    app.conf.update(durable_database_url=faulty.wire.url)
    durable = Durable(app)
    durable.emit("warm", {})
    engine = durable._store.engine
    with Moments(engine, 1, fault(faulty, UNANSWERED)) as moments:
        receipt = durable.emit("paid", {}, event_id="defect-1")
    assert moments.was_hit
    assert receipt.duplicate is False
    assert durable.emit("paid", {}, event_id="defect-1").duplicate is True
    engine.dispose()


def test_a_run_made_from_its_message_was_left_to_its_lease_when_the_answer_was_lost(faulty: Faulty) -> None:
    scene = Scene(faulty.store)
    with Moments(faulty.store.engine, 1, fault(faulty, UNANSWERED)) as moments, faulty.store.link() as link:
        assert isinstance(faulty.store.start_claimed(link, scene.run(), "w/1", LEASE, None), Claim)
        assert moments.was_hit
        assert faulty.store.start_claimed(link, scene.run(), "w/2", LEASE, None) is None, "it has its worker"


def test_a_pass_was_given_up_at_a_read_while_the_database_blinked(faulty: Faulty) -> None:
    def body() -> int:
        step.run("first", int)
        faulty.wire.cut()
        threading.Timer(0.7, faulty.wire.restore).start()
        return int(step.state.get("defect", 7))

    driver = Driver(faulty.store, body)
    driver.start("defect-3")
    assert driver.one_pass("defect-3") == Finished(7)


def test_a_connection_to_what_is_a_standby_now_was_an_error(faulty: Faulty) -> None:
    """After a failover, say: the next connection leads to the primary."""
    read_only = {
        "postgresql": "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "mysql": "SET SESSION TRANSACTION READ ONLY",
    }[faulty.wire.kind]
    scene = Scene(faulty.store)
    with faulty.store.link() as scene.link:
        claim = scene.taken()
        scene.link.run(lambda connection: connection.exec_driver_sql(read_only))
        assert faulty.store.record(scene.link, claim.fence, a_step(), lease_of(claim))


def test_a_lost_connection_used_up_the_attempts_of_a_transaction(faulty: Faulty) -> None:
    calls: list[Session] = []

    def write(session: Session) -> int:
        calls.append(session)
        if len(calls) == 1:
            connection: Connection = session.connection()
            faulty.wire.lose(connection, "unsent")
            connection.exec_driver_sql("SELECT 1")
        return len(calls)

    driver = Driver(faulty.store, lambda: step.options(retry=Retry(max_attempts=1)).transaction("pay", write))
    driver.start("defect-5")
    assert driver.one_pass("defect-5") == Finished(2)
