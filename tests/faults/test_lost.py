"""The connection breaks at a commit, of every operation of the store: before the server knows of it, behind the
answer, or because the server ends the session. Nobody knows which. The operation is done again, and has its effect
once.
"""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection

from tests.waiting import wait_until

from .conftest import Faulty
from .moments import Fault, Moments
from .operations_outside import OPERATIONS, Operation
from .scenes import Scene
from .wire import UNANSWERED, UNSENT

HOW = [UNSENT, UNANSWERED, "killed"]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_a_connection_that_breaks_at_a_commit(faulty: Faulty, operation: Operation) -> None:
    with Moments(faulty.store.engine) as moments:
        expected, answer = performed(faulty, operation, moments)
    assert moments.count
    for number in range(1, moments.count + 1):
        for how in HOW:
            with Moments(faulty.store.engine, number, fault(faulty, how)) as hit:
                found, told = performed(faulty, operation, hit)
            assert hit.was_hit
            if operation.name == "mark a message sent" and how == UNANSWERED:
                (run,) = found["durable_run"]
                assert run["sends"] == 3, "counted twice: the next look at it comes later"
                run["sends"] = 2
            assert found == expected, f"{how} at commit {number}"
            if not (operation.told_less and how == UNANSWERED):
                assert told == answer, f"{how} at commit {number}"


def performed(faulty: Faulty, operation: Operation, moments: Moments) -> tuple[Any, Any]:
    """An operation's rows and its answer."""
    scene = Scene(faulty.store)
    scene.store = faulty.direct
    with faulty.direct.link() as scene.link:
        scene.given = operation.prepare(scene)
    scene.store = faulty.store
    with faulty.store.link() as scene.link:
        scene.link.patience = 30.0  # as a pass has it: on a slow machine a new connection may take its time
        answer = operation.act(scene)
    with faulty.direct.link() as scene.link:
        return scene.look(), scene.plain(answer)


def fault(faulty: Faulty, how: str) -> Fault:
    if how == "killed":
        return lambda connection: kill(faulty, connection)
    return lambda connection: faulty.wire.lose(connection, how)


def kill(faulty: Faulty, connection: Connection) -> None:
    """The server ends the session: an administrator does, or a server that is shut down."""
    driver: Any = connection.connection.driver_connection
    with faulty.direct.engine.connect() as other:
        if faulty.wire.kind == "postgresql":
            number = driver.info.backend_pid
            assert other.exec_driver_sql(f"SELECT pg_terminate_backend({number}, 10000)").scalar()
            return
        number = driver.thread_id()
        other.exec_driver_sql(f"KILL {number}")
        there = f"SELECT count(*) FROM information_schema.processlist WHERE id = {number}"
        wait_until(lambda: other.exec_driver_sql(there).scalar() == 0, 10, "the session is gone")
