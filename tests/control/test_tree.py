"""A tree of 1,000 runs is cancelled from its root: each body is told by the one that called it, and all end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, func, select, update

from celery_durable import step
from celery_durable.core.codec import decode
from celery_durable.engine.executor import Cancelled, Parked
from celery_durable.errors import WrongStatus
from celery_durable.store.link import Link
from celery_durable.store.records import Aftermath, Claim
from celery_durable.store.store import Store

from .operating import LEASE, Clerk, begin, driver_of, rows_of_run

pytestmark = pytest.mark.slow

SIZE = 1_000
WIDE, LEAVES = 9, 110
"""The root calls nine runs, each of which calls 110: with the root they are a thousand."""


class Tree:
    """The runs, executed one after the other as their messages come."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.changes = 0

    def body(self, kind: str) -> Any:
        if kind == "leaf":
            step.wait_for_event("never")
            return
        below, count = ("middle", WIDE) if kind == "root" else ("leaf", LEAVES)
        with step.parallel() as p:
            for number in range(count):
                p.call(f"call-{number}", (below, below))

    def one_pass(self, link: Link, run_id: str) -> tuple[Any, Aftermath]:
        claim = self.store.claim(link, run_id, worker="w", lease=LEASE)
        assert isinstance(claim, Claim), claim
        driver = driver_of(self.store, self.body)
        self.changes = 0
        ended = driver.execute(link, claim, *decode(claim.arguments)[0])
        return ended, driver.dispatcher.followed

    def plant(self, link: Link) -> None:
        begin(self.store, link, "root", args=("root",))
        told = deque(["root"])
        while told:
            ended, aftermath = self.one_pass(link, told.popleft())
            assert isinstance(ended, Parked)
            told += aftermath.wake

    def statuses(self, link: Link) -> dict[str, int]:
        run = self.store.tables.run
        count = select(run.c.status, func.count()).group_by(run.c.status)
        return {row[0]: row[1] for row in link.run(lambda connection: connection.execute(count).all())}

    @contextmanager
    def counting(self) -> Iterator[Callable[[], int]]:
        """How many statements there were."""
        seen: list[str] = []

        def note(_: Any, __: Any, statement: str, *___: Any) -> None:
            seen.append(statement)

        event.listen(self.store.engine, "before_cursor_execute", note)
        try:
            yield lambda: len(seen)
        finally:
            event.remove(self.store.engine, "before_cursor_execute", note)


@pytest.fixture
def tree(store: Store, link: Link, monkeypatch: pytest.MonkeyPatch) -> Tree:
    planted, change = Tree(store), store.change

    def counted(*args: Any, **kwargs: Any) -> Any:
        planted.changes += 1
        assert planted.changes < 20, "the pass goes round in circles"
        return change(*args, **kwargs)

    monkeypatch.setattr(store, "change", counted)
    planted.plant(link)
    assert planted.statuses(link) == {"suspended": 1 + WIDE + WIDE * LEAVES}
    assert 1 + WIDE + WIDE * LEAVES == SIZE
    return planted


def test_a_tree_is_cancelled_from_its_root(tree: Tree, store: Store, link: Link) -> None:
    clerk = Clerk(store)
    with tree.counting() as statements:
        assert clerk.cancel("root", reason="over").cancelling == "over"
        assert statements() < 25, "the one who asks does not do the work"
    told, order = deque(clerk.followed.wake), []
    while told:
        run_id = told.popleft()
        with tree.counting() as statements:
            ended, aftermath = tree.one_pass(link, run_id)
            used = statements()
        assert isinstance(ended, Cancelled), (run_id, ended)
        assert used < 30, f"{used} statements for one body that is told, which calls {len(aftermath.wake)}"
        order.append(run_id)
        told += [other for other in aftermath.wake if other not in order]
    assert tree.statuses(link) == {"cancelled": SIZE}
    assert (len(order), len(set(order))) == (SIZE, SIZE)
    check_nothing_is_left(store, order)
    parents = {run.id: run.parent for run in runs_of(clerk)}
    places = {run_id: place for place, run_id in enumerate(order)}
    assert all(places[parent] < places[run_id] for run_id, parent in parents.items() if parent), "callers come first"
    assert clerk.get("root").status == clerk.cancel("root").status == "cancelled"
    (deed,) = clerk.audit()
    assert (deed.run_id, deed.reason) == ("root", "over")


def test_a_tree_ends_though_nobody_follows(tree: Tree, store: Store, link: Link) -> None:
    """No message is sent: the sweeper finds in the database who has something to do."""
    Clerk(store).cancel("root")
    run = store.tables.run
    for _ in range(3 * (SIZE // 500 + 3)):
        # The time that who tells them has for it is over.
        link.run(lambda connection: connection.execute(update(run).where(run.c.due_at.is_not(None)).values(due_at=1)))
        due = [one.fence.run_id for one in store.due(link, 500) if one.status == "suspended"]
        for run_id in due:
            ended, _ = tree.one_pass(link, run_id)
            assert isinstance(ended, Cancelled)
        with store.engine.begin() as connection:  # what has ended is delivered
            ended_ = run.c.status == "cancelled"
            connection.execute(update(run).where(ended_).values(due_at=None))
    assert tree.statuses(link) == {"cancelled": SIZE}


def test_a_forced_end_of_the_root_tells_all_below(tree: Tree, store: Store, link: Link) -> None:
    clerk = Clerk(store)
    with tree.counting() as statements:
        assert clerk.cancel("root", force=True).status == "cancelled"
        assert statements() < 35
    told = deque(run_id for run_id in clerk.followed.wake if run_id != "root")
    assert len(told) == WIDE
    while told:
        ended, aftermath = tree.one_pass(link, told.popleft())
        assert isinstance(ended, Cancelled)
        told += aftermath.wake
    assert tree.statuses(link) == {"cancelled": SIZE}


def test_all_of_a_tree_that_is_paused_ends_at_once(tree: Tree, store: Store, link: Link) -> None:
    """Runs that are parked for their code have no body to be told in: all of them end in one transaction."""
    run = store.tables.run
    parked = update(run).values(status="paused", waiting_on="code: it does not fit", due_at=None)
    link.run(lambda connection: connection.execute(parked))
    clerk = Clerk(store)
    with tree.counting() as statements:
        assert clerk.cancel("root").status == "cancelled"
        assert statements() < 60, "statements for each level, not for each run"
    assert tree.statuses(link) == {"cancelled": SIZE}
    assert len(clerk.followed.wake) == SIZE
    check_nothing_is_left(store, ["root"])
    with store.engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(store.tables.wait)).scalar_one() == 0


def test_all_runs_of_a_tree_are_cancelled_by_a_filter(tree: Tree, store: Store, link: Link) -> None:
    """Called and callers alike are told, in whichever order; what can't be done any more says why."""
    clerk, after, handled = Clerk(store), None, 0
    while True:
        page = clerk.cancel_all(status="suspended", limit=300, after=after)
        assert all(one.done for one in page)
        handled += len(page)
        if page.next is None:
            break
        after = page.next
    assert handled == SIZE
    for run_id in dict.fromkeys(clerk.followed.wake):
        if store.status(link, run_id) == "suspended":
            ended, _ = tree.one_pass(link, run_id)
            assert isinstance(ended, Cancelled), ended
    assert tree.statuses(link) == {"cancelled": SIZE}
    with pytest.raises(WrongStatus):
        clerk.resume("root")


def check_nothing_is_left(store: Store, run_ids: list[str]) -> None:
    for run_id in (*run_ids[:3], run_ids[-1]):
        left = rows_of_run(store, run_id)
        assert (left["wait"], left["turn"]) == (0, 0)
    step_ = store.tables.step
    with store.engine.connect() as connection:
        waiting = select(func.count()).where(step_.c.status == "waiting")
        assert connection.execute(waiting).scalar_one() == 0


def runs_of(clerk: Clerk) -> Iterator[Any]:
    after = None
    while True:
        page = clerk.runs(limit=1000, after=after)
        yield from page
        if page.next is None:
            return
        after = page.next
