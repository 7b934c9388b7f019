"""What each moment of a run may cost on PostgreSQL: statements, and commits (which wait for the disk)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, event

from celery_durable import Retry, step
from celery_durable.core.codec import encode
from celery_durable.engine.events import answer_text, event_of, new_event
from celery_durable.engine.executor import Failed, Finished, Parked
from celery_durable.store.records import Fence
from celery_durable.store.store import Store
from tests.engine.driving import Driver

from .calling import called, ended, over
from .making import a_step, claimed, lease_of, new_run, put, taken


class Counter:
    """Statements and commits on an engine."""

    def __init__(self, engine: Engine) -> None:
        self.seen: list[str] = []
        event.listen(engine, "before_cursor_execute", self._execute)
        event.listen(engine, "commit", lambda connection: self.seen.append("COMMIT"))

    def _execute(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self.seen.append(" ".join(statement.split()))
        if connection.get_execution_options().get("isolation_level", "AUTOCOMMIT") == "AUTOCOMMIT":
            return
        self.seen[-1] = f"WITHIN {self.seen[-1]}"  # SQLAlchemy's own transaction, which its commit ends

    def take(self) -> tuple[int, int]:
        """Statements (BEGIN and COMMIT apart) and commits since the last time."""
        seen, self.seen = self.seen, []
        statements = commits = 0
        open_transaction = False
        for statement in seen:
            word = statement.split()[0]
            if word in ("BEGIN", "START"):
                open_transaction = True
            elif word == "COMMIT":
                open_transaction = False
                commits += 1
            elif word == "ROLLBACK":
                open_transaction = False
            elif word == "WITHIN":
                statements += 1
            else:
                statements += 1
                writes = word in ("INSERT", "UPDATE", "DELETE", "WITH")
                commits += writes and not open_transaction
        return statements, commits


@pytest.fixture
def store(postgresql_url: str) -> Iterator[Store]:
    opened = Store(postgresql_url)
    opened.migrate()
    with opened.link() as link:
        opened.now(link)  # what a first connection asks the server
    yield opened
    opened.engine.dispose()


@pytest.fixture
def counter(store: Store) -> Counter:
    return Counter(store.engine)


def test_a_start(store: Store, counter: Counter) -> None:
    with store.link() as link:
        assert store.start(link, new_run())
    assert counter.take() == (1, 1)


def test_taking_a_run_and_all_its_steps(store: Store, counter: Counter) -> None:
    costs: list[tuple[int, int]] = []

    def body() -> None:
        costs.append(counter.take())
        for index in range(3):
            step.run(f"s{index}", int)
        step.sleep("nap", "1h")

    driver = Driver(store, body)
    driver.start()
    counter.take()
    driver.one_pass()
    driver.let_time_pass()
    counter.take()
    driver.one_pass()
    assert costs == [(1, 1), (2, 1)]  # with no steps recorded there are none to be read; and with four


def costs_of(store: Store, counter: Counter, *parts: Callable[[], Any]) -> list[list[tuple[int, int]]]:
    """What each part of a body costs in each pass, and what the end of the pass costs after it."""
    passes: list[list[tuple[int, int]]] = []

    def body() -> None:
        costs: list[tuple[int, int]] = []
        passes.append(costs)
        counter.take()
        for part in parts:
            part()
            costs.append(counter.take())

    driver = Driver(store, body, step_retry=Retry(max_attempts=1))
    driver.start()
    while True:
        ended = driver.one_pass()
        passes[-1].append(counter.take())
        if not isinstance(ended, Parked):
            break
        driver.let_time_pass()
    assert isinstance(ended, (Finished, Failed))
    return passes


def test_steps_that_are_new_and_steps_that_are_replayed(store: Store, counter: Counter) -> None:
    first, second = costs_of(
        store,
        counter,
        lambda: step.run("plain", int),
        lambda: step.run("with arguments", int, "7"),
        lambda: step.now(),
        lambda: step.uuid4(),
        lambda: step.sleep_until("past", 0),
        lambda: step.sleep("nap", "1h"),
    )
    assert first == [(1, 1)] * 5 + [(2, 1)]  # the last is the suspension
    assert second == [(0, 0)] * 6 + [(1, 1)]  # the last is the end


def test_an_order_of_four_steps_from_its_start_to_its_end(store: Store, counter: Counter) -> None:
    """The start, the claim, four steps, the end."""

    def order() -> None:
        for name in ("reserve", "charge", "ship", "mail"):
            step.run(name, int)

    counter.take()
    driver = Driver(store, order)
    driver.start()
    assert isinstance(driver.one_pass(), Finished)
    assert counter.take() == (7, 7)


def test_an_error_costs_what_a_value_does(store: Store, counter: Counter) -> None:
    def fail() -> None:
        with pytest.raises(ZeroDivisionError):
            step.run("fails", lambda: 1 // 0)

    (costs,) = costs_of(store, counter, fail)
    assert costs == [(1, 1), (1, 1)]


def test_a_run_that_fails(store: Store, counter: Counter) -> None:
    def body() -> None:
        counter.take()
        raise ValueError

    driver = Driver(store, body)
    driver.start()
    assert isinstance(driver.one_pass(), Failed)
    assert counter.take() == (1, 1)


def test_parking_between_two_attempts(store: Store, counter: Counter) -> None:
    attempts: list[int] = []

    def flaky() -> None:
        attempts.append(1)
        if len(attempts) == 1:
            raise ConnectionError

    def body() -> None:
        counter.take()
        step.options(retry=Retry(delay="1h")).run("flaky", flaky)

    driver = Driver(store, body)
    driver.start()
    assert isinstance(driver.one_pass(), Parked)
    assert counter.take() == (2, 1)
    driver.let_time_pass()
    driver.finish()
    assert counter.take() == (2, 2)  # the step that is known, and the end


def test_at_most_once_is_recorded_before_and_after(store: Store, counter: Counter) -> None:
    first, second = costs_of(
        store,
        counter,
        lambda: step.options(at_most_once=True).run("once", int),
        lambda: step.sleep("nap", "1h"),
    )
    assert first[0] == (2, 2)
    assert second[0] == (0, 0)


def test_a_transaction_is_one_commit(store: Store, counter: Counter) -> None:
    first, second = costs_of(
        store,
        counter,
        lambda: step.transaction("tx", lambda session: session.execute(store.statements.now).scalar() and None),
        lambda: step.sleep("nap", "1h"),
    )
    assert first[0] == (5, 1)  # the user's own, in a savepoint; the fence; the record
    assert second[0] == (0, 0)


def test_delivery_marks_share_a_statement(store: Store, counter: Counter) -> None:
    with store.link() as link:
        store.mark_delivered(link, [Fence(f"r{number}", 1) for number in range(3)])
    assert counter.take() == (1, 1)


def test_a_batch_that_was_sent_shares_a_statement(store: Store, counter: Counter) -> None:
    with store.link() as link:
        store.mark_sent(link, [(Fence(f"r{number}", 1), 15_000_000, True) for number in range(50)])
    assert counter.take() == (1, 1)


def test_a_batch_of_events_that_was_sent_shares_a_statement(store: Store, counter: Counter) -> None:
    with store.link() as link:
        store.mark_events_sent(link, [(f"event-{number}", 15_000_000) for number in range(50)])
    assert counter.take() == (1, 1)


def test_asking_who_was_not_taken_shares_a_statement(store: Store, counter: Counter) -> None:
    with store.link() as link:
        assert store.untaken(link, [Fence(f"r{number}", 1) for number in range(500)]) == set()
    assert counter.take() == (1, 0)


def test_a_look_of_the_sweeper_that_finds_nothing(store: Store, counter: Counter) -> None:
    with store.link() as link:
        assert store.due(link, 500) == []
    assert counter.take() == (1, 0)


def test_waiting_for_an_event(store: Store, counter: Counter) -> None:
    first, second = costs_of(store, counter, lambda: step.wait_for_event("paid", key="k", timeout="1h"))
    assert first == [(2, 1)]  # the state, the step and the wait under the gate; the look for an event that is there
    assert second == [(4, 1), (1, 1)]  # the time is up: the fence, the step, the wait, what is recorded; the end


def test_an_event_that_is_there_and_one_that_the_run_emits(store: Store, counter: Counter) -> None:
    (costs,) = costs_of(
        store,
        counter,
        lambda: step.emit("tell", "told", {"n": 1}),
        lambda: step.wait_for_event("told", timeout="1h"),
        lambda: step.wait_for_event("more", timeout=0),
    )
    assert costs == [
        (3, 1),  # the fence, the step, the event
        (5, 1),  # as if it waited, taken back; the fence, the step, that it is taken
        (2, 1),  # the look, the step
        (1, 1),
    ]


def test_emitting_and_dispatching(store: Store, counter: Counter) -> None:
    with store.link() as link:
        assert store.emit(link, new_event("e1", "paid", {}, "k", max_payload=1000), 0)
        assert counter.take() == (1, 1)
        event = store.event(link, "e1")
        assert event is not None
        store.close_gates(link, event)
        assert store.prospects(link, event) == (False, False, False)
        store.dispatched(link, "e1", None)
    assert counter.take() == (4, 1)  # with nobody waiting


def test_an_event_that_one_run_waits_for(store: Store, counter: Counter) -> None:
    driver = Driver(store, lambda: step.wait_for_event("paid", key="k"))
    driver.start()
    driver.one_pass()
    counter.take()
    with store.link() as link:
        emitted = store.emit_answering(link, new_event("e1", "paid", {}, "k", max_payload=1000), answer_text, 0)
        assert emitted.woken is not None
        assert counter.take() == (1, 1)  # as if nobody had waited


def test_an_event_for_many_runs_is_a_few_statements(store: Store, counter: Counter) -> None:
    def body() -> None:
        step.wait_for_event("paid")

    driver = Driver(store, body)
    for number in range(50):
        driver.start(f"r{number}")
        driver.one_pass(f"r{number}")
    with store.link() as link:
        store.emit(link, new_event("e1", "paid", {}, None, max_payload=1000), 0)
        event = store.event(link, "e1")
        assert event is not None
        counter.take()
        (waits,) = store.waits_for(link, event, 100)
        assert counter.take() == (1, 0)
        woken = store.deliver(link, event, encode(event_of(event)), waits, 0)
    assert len(woken) == 50
    assert counter.take() == (2, 1)  # the runs, in whose lock all the rest is one statement


# -- Blocks and calls


def test_branches_that_are_ready_together_are_one_statement(store: Store, counter: Counter) -> None:
    with store.link() as link:
        claim = taken(store, link)
        steps = [a_step(f"s{number}", position=number) for number in range(10)]
        counter.take()
        assert store.record_together(link, claim.fence, steps, lease_of(claim))
    assert counter.take() == (1, 1)


def test_a_block_whose_functions_end_together(store: Store, counter: Counter) -> None:
    """The pass that waits for them may see the first of them before the others: a few batches."""
    meeting = threading.Barrier(10)

    def block() -> None:
        with step.parallel() as p:
            for number in range(10):
                p.run(f"s{number}", lambda: meeting.wait(20) and None)

    first, second = costs_of(store, counter, block, lambda: step.sleep("nap", "1h"))
    statements, commits = first[0]
    assert 1 <= statements == commits <= 5
    assert second == [(0, 0), (0, 0), (1, 1)]  # a replay asks the database for nothing


def test_what_a_block_begins_is_one_commit(store: Store, counter: Counter) -> None:
    """Two waits, two calls and a sleep: the gates; the state, the steps, the runs, their inputs, the waits; the
    looks for events."""

    def block() -> None:
        with step.parallel() as p:
            p.wait_for_event("paid")
            p.wait_for_event("sent")
            p.call("one", "child")
            p.call("two", "child")
            p.sleep("nap", "1h")

    assert parking(store, counter, block) == (9, 1)


def parking(store: Store, counter: Counter, part: Callable[[], object]) -> tuple[int, int]:
    """What it costs to park a run in this part of its body."""

    def body() -> None:
        counter.take()
        part()

    driver = Driver(store, body)
    driver.start()
    assert isinstance(driver.one_pass(), Parked)
    return counter.take()


def test_parking_for_a_call(store: Store, counter: Counter) -> None:
    cost = parking(store, counter, lambda: step.call("call", "child"))
    assert cost == (4, 1)  # the state, the step, the run that is called, its input


@pytest.mark.parametrize(
    ("quorum", "status", "cost"),
    [
        (1, "suspended", (4, 1)),  # the caller, the end, the answer, the waking
        (2, "suspended", (4, 1)),  # the caller, the end, the answer, one less to wait for
        (1, "running", (3, 1)),
        (1, "completed", (2, 1)),
    ],
)
def test_the_end_of_what_was_called(
    store: Store, counter: Counter, quorum: int, status: str, cost: tuple[int, int]
) -> None:
    with store.link() as link:
        called(store, link, "c", "d", quorum=quorum)
        put(store, link, status=status)
        child = claimed(store, link, "c")
        counter.take()
        assert ended(store, link, child) is not None
    assert counter.take() == cost


@pytest.mark.parametrize("quorum", [None, 2])
@pytest.mark.parametrize("status", ["completed", "failed"])
def test_an_ordinary_task_that_reports_its_end(store: Store, counter: Counter, status: str, quorum: int | None) -> None:
    """The caller's lock, the end, the answer, and the waking or one less to wait for."""
    with store.link() as link:
        called(store, link, "t", "u", kind="task", quorum=quorum)
        counter.take()
        assert over(store, link, "t", status) is not None
    assert counter.take() == (1, 1)


def test_a_report_on_mysql(mysql_url: str) -> None:
    """Of the last task that is waited for: who calls it; the caller, the end, the answer, the waking. Of the others:
    who calls it; all of the rest."""
    store = Store(mysql_url)
    store.migrate()
    with store.link() as link:
        called(store, link, "t", "u", "v", kind="task", quorum=3)
        counter, costs = Counter(store.engine), []
        for task in ("t", "u", "v"):
            over(store, link, task)
            costs.append(counter.take())
    store.engine.dispose()
    assert costs == [(2, 1), (2, 1), (5, 1)]


def test_a_report_names_rows_and_joins_none(store: Store) -> None:
    """With statistics that tell of few rows, a plan may read all steps of the caller to find one."""
    with store.link() as link:
        called(store, link, *(f"t{number:03}" for number in range(300)), kind="task", quorum=300)
        for number in range(10):  # by then the plan is made once for all values
            over(store, link, f"t{number:03}")
        statement: Any = store.statements.report_end["completed"]
        compiled = statement.compile(dialect=store.engine.dialect)
        values = {"at_id": "t100", "status": "completed", "token": 7, "retention": 1, "due_in": 1}
        given = dict.fromkeys(compiled.params) | compiled.params | values
        read: Any = link.run(
            lambda at: at.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {compiled}", given).scalar()
        )
    assert most_rows(read[0]["Plan"]) == 1


def most_rows(plan: dict[str, Any]) -> int:
    """How many rows the widest part of a plan has read."""
    dropped = sum(count for name, count in plan.items() if name.startswith("Rows Removed"))
    return max(plan["Actual Rows"] + dropped, *map(most_rows, plan.get("Plans", [])), 0)


def test_going_on_after_calls(store: Store, counter: Counter) -> None:
    """A pass that finds the answers. Their order is kept when it next writes more than a step."""
    costs: list[tuple[int, int]] = []

    def body() -> None:
        with step.parallel() as p:
            for number in range(10):
                p.call(f"c{number}", "plain")
        costs.append(counter.take())
        step.run("after", int)
        costs.append(counter.take())

    driver = Driver(store, body)
    driver.start()
    driver.one_pass()
    with store.link() as link:
        for row in driver.steps().values():
            store.end_from_outside(link, row["child"], status="completed", result="1")
    counter.take()
    driver.one_pass()
    assert costs == [(2, 1), (1, 1)]  # the claim, and nothing for the block; the step
    assert counter.take() == (1, 1)
