"""``step.transaction``: what the database takes back, or loses the answer to, is done again within the attempt, and has
its effect once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from celery_durable import Retry, step
from celery_durable.engine.executor import Finished
from tests.engine.driving import Driver

from .conftest import Faulty
from .moments import Moments
from .rivals import crossing
from .test_contended import victim
from .test_lost import HOW, fault

__all__ = ["victim"]

ONCE = Retry(max_attempts=1)


class Ledger:
    """A table of the user's own, and a function that writes to it in a transaction step."""

    def __init__(self, faulty: Faulty, name: str, before: Callable[[Session], Any] = lambda session: None) -> None:
        self.faulty = faulty
        self.name = name
        self.calls = 0
        self.before = before
        with faulty.direct.engine.connect() as connection:
            connection.execute(text(f"CREATE TABLE {name} (what VARCHAR(20))"))

    def pay(self, session: Session) -> int:
        self.calls += 1
        self.before(session)
        session.execute(text(f"INSERT INTO {self.name} VALUES ('paid')"))
        return self.calls

    def body(self) -> Any:
        return step.options(retry=ONCE).transaction("pay", self.pay)

    @property
    def rows(self) -> int:
        with self.faulty.direct.engine.connect() as connection:
            return int(connection.execute(text(f"SELECT count(*) FROM {self.name}")).scalar_one())


@pytest.mark.parametrize("how", HOW)
def test_a_connection_that_breaks_at_its_commit(faulty: Faulty, how: str) -> None:
    """Also with a single attempt: what the database has lost is not the function's failure."""
    ledger = Ledger(faulty, f"ledger_{how}")
    driver = Driver(faulty.store, ledger.body)
    driver.start(how)
    with Moments(faulty.store.engine, 2, fault(faulty, how)) as moments:  # the first is the claim's
        ended = driver.one_pass(how)
    assert moments.was_hit
    assert ended == Finished(ledger.calls)
    assert ledger.calls == (1 if how == "unanswered" else 2)
    assert ledger.rows == 1
    assert driver.steps(how)["pay"]["attempts"] == 1


def test_a_deadlock_does_not_fail_the_step(faulty: Faulty, victim: Any) -> None:
    ledger = Ledger(faulty, "ledger_deadlock")
    driver = Driver(victim, ledger.body)
    driver.start("deadlock")
    with crossing(faulty, victim, ledger.name, victim.tables.step.name):
        ended = driver.one_pass("deadlock")
    assert ended == Finished(2)
    assert ledger.rows == 1
    assert driver.steps("deadlock")["pay"]["attempts"] == 1


def test_one_that_runs_at_most_once_is_not_done_again(faulty: Faulty) -> None:
    ledger = Ledger(faulty, "ledger_once")

    def body() -> Any:
        try:
            return step.options(at_most_once=True).transaction("pay", ledger.pay)
        except Exception as error:
            return type(error).__name__

    driver = Driver(faulty.store, body)
    driver.start("once")
    with Moments(faulty.store.engine, 3, fault(faulty, "unsent")):  # after the claim's and the one of its start
        ended = driver.one_pass("once")
    assert ended == Finished("OperationalError")
    assert (ledger.calls, ledger.rows) == (1, 0)


def test_a_connection_that_the_function_breaks_each_time_is_its_failure(faulty: Faulty) -> None:
    """Not a database that is away: the step fails after a few tries, and the run does not hang on it."""

    def lose(session: Session) -> None:
        connection: Connection = session.connection()
        faulty.wire.lose(connection, "unsent")

    ledger = Ledger(faulty, "ledger_broken", lose)

    def body() -> Any:
        try:
            return ledger.body()
        except Exception as error:
            return type(error).__name__

    driver = Driver(faulty.store, body)
    driver.start("broken")
    assert driver.one_pass("broken") == Finished("OperationalError")
    assert (ledger.calls, ledger.rows) == (3, 0)
