"""The database takes a transaction back so that others can go on: a deadlock, a serialization failure, a lock that is
not to be had. The operation is done again, has its effect once, and nobody hears of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
from sqlalchemy import event, make_url
from sqlalchemy.exc import DBAPIError

from celery_durable.store.link import is_contended
from celery_durable.store.store import Store

from .conftest import Faulty
from .operations_outside import OPERATIONS, Operation
from .rivals import crossing, holding
from .scenes import Scene

CROSSED = {
    "parallel: write what a block begins": "step",
    "suspend: sleep, wait and call": "step",
    "continue as new": "step",
    "hand back a run that was stopped": "step",
    "step.state.increment": "state",
    "step.lock: take": "turn",
    "step.lock: give back": "turn",
    "step.lock: hand on": "step",
    "step.emit": "event",
    "take an event that came first": "taken",
    "dispatch: deliver and wake": "step",
    "a wait's timeout": "step",
    "a child's end": "step",
    "fail, with open steps": "step",
    "cancel with force": "step",
    "retry": "step",
    "fork": "step",
    "an ordinary task that is revoked": "step",
    "prune": "step",
}
"""Operations that lock a run, and the table in which they lock something after it."""
SERIALIZED = ["claim", "record a step", "settle a step that has begun", "record branches together", "finish",
              "pause by a mismatch", "step.set_progress", "heartbeat", "mark a result delivered", "mark a message sent",
              "recover a dead worker's run", "set a run aside", "an ordinary task's report"]  # fmt: skip
"""Operations that are one statement on PostgreSQL, whose isolation is the server's default."""
NAMED = {operation.name: operation for operation in OPERATIONS}


def store_with(faulty: Faulty, option: str, init_command: str = "") -> Store:
    url = make_url(faulty.url)
    if faulty.wire.kind == "postgresql":
        url = url.update_query_dict({"options": f"{url.query['options']} {option}"})
    elif init_command:
        url = url.update_query_dict({"init_command": init_command})
    return Store(url.render_as_string(hide_password=False))


@pytest.fixture(scope="module")
def victim(faulty: Faulty) -> Iterator[Store]:
    """A store whose sessions are the first to look for a deadlock, and wait for a lock for a second."""
    opened = victim_of(faulty)
    yield opened
    opened.engine.dispose()


def victim_of(faulty: Faulty) -> Store:
    with faulty.direct.engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE ballast (number INT)")
    return store_with(faulty, "-cdeadlock_timeout=20ms -clock_timeout=1s", "SET innodb_lock_wait_timeout = 1")


@contextmanager
def noting(store: Store) -> Iterator[list[DBAPIError]]:
    """The errors that a store is told of meanwhile."""
    noted: list[DBAPIError] = []

    def note(context: Any) -> None:
        noted.append(context.sqlalchemy_exception)

    event.listen(store.engine, "handle_error", note)
    try:
        yield noted
    finally:
        event.remove(store.engine, "handle_error", note)


def performed(
    faulty: Faulty, operation: Operation, store: Store, against: Callable[[Scene], AbstractContextManager[None]]
) -> tuple[Any, Any]:
    """An operation's rows and its answer."""
    scene = Scene(faulty.direct)
    with faulty.direct.link() as scene.link:
        scene.given = operation.prepare(scene)
    scene.store = store
    with store.link() as scene.link, against(scene):
        answer = operation.act(scene)
    with faulty.direct.link() as scene.link:
        return scene.look(), scene.plain(answer)


def undisturbed(faulty: Faulty, operation: Operation) -> tuple[Any, Any]:
    return performed(faulty, operation, faulty.direct, lambda scene: nullcontext())


@pytest.mark.parametrize("name", CROSSED)
def test_a_deadlock(faulty: Faulty, victim: Store, name: str) -> None:
    tables = faulty.direct.tables
    last = getattr(tables, CROSSED[name]).name

    with noting(victim) as noted:
        found = performed(faulty, NAMED[name], victim, lambda scene: crossing(faulty, victim, tables.run.name, last))
    assert [is_contended(error) for error in noted] == [True], "it was chosen"
    assert found == undisturbed(faulty, NAMED[name])


@pytest.mark.parametrize("isolation", ["serializable", "repeatable read"])
@pytest.mark.parametrize("faulty", ["postgresql"], indirect=True)  # MySQL waits, and then sees what is there
def test_a_serialization_failure(faulty: Faulty, isolation: str) -> None:
    strict = store_with(faulty, f"-cdefault_transaction_isolation={isolation.replace(' ', chr(92) + ' ')}")
    for name in SERIALIZED:
        with noting(strict) as noted:
            found = performed(faulty, NAMED[name], strict, lambda scene: holding(faulty, touch(scene)))
        assert noted, name
        assert all(is_contended(error) for error in noted), name
        assert found == undisturbed(faulty, NAMED[name]), name
    strict.engine.dispose()


@pytest.mark.parametrize("name", ["an ordinary task's report", "a report of one of many"])
def test_a_report_that_waits_for_its_caller_sees_what_became_of_it(faulty: Faulty, name: str) -> None:
    """It is one statement, which began before: its own sight of the rows is the old one."""
    run, step = faulty.direct.tables.run.name, faulty.direct.tables.step.name

    def behind(statement: str) -> tuple[str, str, bool, int | None]:
        """The task, the step, whether the caller is woken, and its quorum, once who had its row has done this."""

        def rival(scene: Scene) -> AbstractContextManager[None]:
            return holding(faulty, *[part.format(scene.name) for part in (touch(scene), statement)])

        rows, _ = performed(faulty, NAMED[name], faulty.direct, rival)
        caller, called = sorted(rows[run], key=lambda row: row["kind"] is not None)
        (call,) = rows[step]
        return called["status"], call["status"], caller["waiting_on"] == "a worker", caller["quorum"]

    assert behind(f"UPDATE {run} SET quorum = 5 WHERE id = '{{}}r'") == ("completed", "completed", False, 4)
    assert behind(f"UPDATE {run} SET quorum = 1 WHERE id = '{{}}r'") == ("completed", "completed", True, 1)
    assert behind(f"UPDATE {run} SET status = 'running', quorum = 5 WHERE id = '{{}}r'") == (
        "completed", "completed", False, 5,
    )  # fmt: skip
    assert behind(f"UPDATE {run} SET status = 'completed', quorum = 5 WHERE id = '{{}}r'") == (
        "completed", "waiting", False, 5,
    )  # fmt: skip
    assert behind(f"UPDATE {step} SET child = 'another' WHERE run_id = '{{}}r'")[:3] == ("completed", "waiting", False)
    assert behind(f"UPDATE {run} SET status = 'cancelled' WHERE id = '{{}}c'")[:3] == ("cancelled", "waiting", False)


@pytest.mark.parametrize("name", ["claim", "record a step", "a child's end", "cancel"])
def test_a_lock_that_is_not_to_be_had_for_a_while(faulty: Faulty, victim: Store, name: str) -> None:
    with noting(victim) as noted:
        found = performed(
            faulty, NAMED[name], victim, lambda scene: holding(faulty, touch(scene), until=lambda: bool(noted))
        )
    assert found == undisturbed(faulty, NAMED[name])


def touch(scene: Scene) -> str:
    """A statement that writes to all runs of a scene, and changes nothing."""
    return f"UPDATE {scene.store.tables.run.name} SET task = task WHERE id LIKE '{scene.name}%%'"
