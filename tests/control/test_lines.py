"""Lines for a resource, from many workers at once: never more at work than may be, all have their turn, in order."""

from __future__ import annotations

import itertools
import random
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select

from celery_durable.store.lines import Line
from celery_durable.store.link import Link
from celery_durable.store.records import Claim, Fence, NotClaimed
from celery_durable.store.store import Store
from tests.store.calling import parked
from tests.store.making import put, run_row

from .operating import LEASE, Clerk, begin, ended
from .windows import meetings

RUNS, WORKERS = 40, 8
LIMIT = 3
THREE = Line("ship", LIMIT)
ONE = Line("ship", 1)
PATIENCE = 20.0

pytestmark = pytest.mark.slow


def at_work(store: Store, link: Link) -> int:
    run = store.tables.run
    count = select(func.count()).where(run.c.status == "running", run.c.resource == "ship")
    return int(link.run(lambda connection: connection.execute(count).scalar_one()))


def ahead_of(store: Store, link: Link, run_id: str, queued_at: int) -> int:
    run = store.tables.run
    before = select(func.count()).where((run.c.queued_at < queued_at), run.c.id != run_id)
    return int(link.run(lambda connection: connection.execute(before).scalar_one()))


class Floor:
    """Workers, and the messages that they take; what is sent twice is there twice."""

    def __init__(self, store: Store, dies: float = 0.0) -> None:
        self.store = store
        self.dies = dies
        self.messages: deque[str] = deque()
        self.most = 0
        self.done: list[str] = []
        self.served: list[tuple[int, str]] = []
        self.meeting = threading.Barrier(WORKERS)
        self.order = itertools.count()

    def work(self, seed: int) -> None:
        luck = random.Random(seed)
        with self.store.link() as link:
            self.store.now(link)  # connected
            self.meeting.wait(30)
            while self.messages:
                try:
                    run_id = self.messages.popleft()
                except IndexError:
                    return
                self.take(link, luck, run_id)

    def take(self, link: Link, luck: random.Random, run_id: str) -> None:
        store = self.store
        queued_at = run_row(store, link, run_id)["queued_at"]
        found = store.claim(link, run_id, worker="w", lease=LEASE, line=THREE, patience=PATIENCE)
        if not isinstance(found, Claim):
            assert isinstance(found, NotClaimed) or store.get(link, run_id)
            return
        if queued_at is not None:
            self.served.append((queued_at, run_id))
            ahead = ahead_of(store, link, run_id, queued_at)
            assert ahead < LIMIT, f"{run_id} was served before {ahead} others"
        self.most = max(self.most, at_work(store, link))
        threading.Event().wait(luck.uniform(0.02, 0.06))  # its work
        self.most = max(self.most, at_work(store, link))
        if luck.random() < self.dies:
            return  # nothing is given up, and nobody is let in
        if luck.random() < 0.2:
            parked(store, link, found, wake_at=found.now, due_at=found.now)
            self.messages.append(run_id)
        else:
            assert ended(store, link, found, patience=PATIENCE) is not None
            self.done.append(run_id)
        self.messages += store.let_in(link, THREE)

    def open(self) -> None:
        with ThreadPoolExecutor(WORKERS) as pool:
            for worker in [pool.submit(self.work, seed) for seed in itertools.islice(self.order, WORKERS)]:
                worker.result(120)

    def sweep(self) -> int:
        """What the sweeper does: workers that died, lines that nobody was let in from, messages that are lost."""
        found = 0
        with self.store.link() as link:
            for row in self.rows():
                if row.status == "running":
                    assert self.store.recover(link, Fence(row.id, row.token))
                    found += 1
            for resource, _ in self.store.lines(link, 10):
                self.store.let_in(link, Line(resource, LIMIT))
            due = [row.id for row in self.rows() if row.due_at is not None]
            self.messages += due
        return found + len(due)

    def rows(self) -> list[Any]:
        run = self.store.tables.run
        with self.store.engine.connect() as connection:
            return list(connection.execute(run.select().where(run.c.status.in_(("pending", "running", "suspended")))))


def begun(store: Store, link: Link, *run_ids: str) -> None:
    for run_id in run_ids:
        begin(store, link, run_id, task="ship")


def test_never_more_than_may_be_are_at_work_and_all_end(store: Store, link: Link) -> None:
    """Without a sweeper: whoever ends lets in the next, also those that got into the line at that very moment."""
    floor = Floor(store)
    runs = [f"r{number:02}" for number in range(RUNS)]
    begun(store, link, *runs)
    floor.messages += [*runs, *runs[:10]]  # some messages come twice
    floor.open()
    while floor.messages:
        floor.open()
    assert sorted(floor.done) == runs, [tuple(row)[:3] for row in floor.rows()]
    assert 1 < floor.most <= LIMIT
    assert len(floor.served) > LIMIT, "there was no line"
    assert store.lines(link, 10) == []


def test_workers_that_die_keep_no_share(store: Store, link: Link) -> None:
    floor = Floor(store, dies=0.3)
    runs = [f"r{number:02}" for number in range(RUNS)]
    begun(store, link, *runs)
    floor.messages += runs
    for _ in range(200):
        floor.open()
        if not floor.messages and not floor.sweep():
            break
    assert sorted(floor.done) == runs, [tuple(row)[:3] for row in floor.rows()]
    assert floor.most <= LIMIT
    assert store.lines(link, 10) == []


def claim(store: Store, run_id: str, line: Line = ONE) -> Any:
    with store.link() as link:
        return store.claim(link, run_id, worker="w", lease=LEASE, line=line, patience=PATIENCE)


@pytest.mark.parametrize("who", ["ends", "claims"])
@pytest.mark.parametrize("way", ["finish", "park", "pause", "cancel", "force"])
def test_who_gets_into_the_line_while_the_share_is_given_up_is_let_in(store: Store, who: str, way: str) -> None:
    """The moment between the look for a share and the place in the line, and any other one."""
    clerk = Clerk(store)
    claims: dict[int, Claim] = {}

    def prepare(number: int) -> None:
        with store.link() as link:
            begin(store, link, f"a{number}")
            begin(store, link, f"b{number}")
        found = claim(store, f"a{number}", line(number))
        assert isinstance(found, Claim)
        claims[number] = found

    def line(number: int) -> Line:
        return Line(f"ship {number}", 1)

    def gives_up(number: int) -> Callable[[], Any]:
        if who == "ends":
            prepare(number)

        def give_up() -> list[str]:
            with store.link() as link:
                if way == "finish":
                    assert ended(store, link, claims[number], patience=PATIENCE) is not None
                elif way == "park":
                    parked(store, link, claims[number], patience=PATIENCE)
                elif way == "pause":
                    clerk.pause(f"a{number}")
                else:
                    clerk.cancel(f"a{number}", force=way == "force")
                return store.let_in(link, line(number))

        return give_up

    def claims_share(number: int) -> Callable[[], Any]:
        if who == "claims":
            prepare(number)
        return lambda: claim(store, f"b{number}", line(number))

    pair = (gives_up, claims_share) if who == "ends" else (claims_share, gives_up)
    for meeting in meetings(store, *pair):
        let_in, found = (meeting.held, meeting.other) if who == "ends" else (meeting.other, meeting.held)
        run_id = f"b{meeting.number}"
        if isinstance(found, Claim):
            assert let_in == [], str(meeting)
            continue
        assert isinstance(found, NotClaimed), (found, str(meeting))
        assert let_in == [run_id], f"nobody lets it in: {meeting}"
        with store.link() as link:
            assert run_row(store, link, run_id)["due_at"] is not None
        assert isinstance(claim(store, run_id, line(meeting.number)), Claim)


@pytest.mark.parametrize("way", ["pause", "cancel", "force"])
def test_who_is_let_in_and_then_does_not_come_leaves_the_share_to_the_next(store: Store, link: Link, way: str) -> None:
    clerk = Clerk(store)
    begun(store, link, "a", "b", "c")
    first = claim(store, "a")
    assert isinstance(first, Claim)
    assert [claim(store, run_id).status for run_id in "bc"] == ["queued", "queued"]
    ended(store, link, first)
    assert store.let_in(link, ONE) == ["b"]
    if way == "pause":
        clerk.pause("b")
    else:
        clerk.cancel("b", force=way == "force")  # it had not begun: it ends at once
    assert store.let_in(link, ONE) == ["c"]  # what the sweeper does
    assert isinstance(claim(store, "c"), Claim)
    if way == "pause":
        clerk.resume("b")
        assert claim(store, "b").status == "queued"
        assert run_row(store, link, "b")["queued_at"] > 0


def test_who_is_let_in_is_not_overtaken_by_one_that_comes_then(store: Store, link: Link) -> None:
    begun(store, link, "a", "b", "c")
    first = claim(store, "a")
    assert claim(store, "b").status == "queued"
    ended(store, link, first)
    assert store.let_in(link, ONE) == ["b"]
    assert claim(store, "c").status == "queued"
    assert store.let_in(link, ONE) == []  # b is on its way
    second = claim(store, "b")
    assert isinstance(second, Claim)
    ended(store, link, second)
    assert store.let_in(link, ONE) == ["c"]


def test_a_run_whose_time_is_up_in_the_line_is_told_so(store: Store, link: Link) -> None:
    begun(store, link, "a", "b")
    assert isinstance(claim(store, "a"), Claim)
    found = store.claim(link, "b", worker="w", lease=LEASE, line=ONE, run_timeout=3_600_000_000)
    assert isinstance(found, NotClaimed)
    row = run_row(store, link, "b")
    assert row["due_at"] == row["created_at"] + 3_600_000_000
    put(store, link, "b", created_at=row["created_at"] - 7_200_000_000)
    told = store.claim(link, "b", worker="w", lease=LEASE, line=ONE, run_timeout=3_600_000_000)
    assert isinstance(told, Claim)
    assert told.deadline_at is not None
    assert told.deadline_at < told.now


def test_what_the_sweeper_marks_as_sent_is_let_in_all_the_same(store: Store, link: Link) -> None:
    """It has seen the run as due, and marks its message as sent when the run stands in the line already."""
    begun(store, link, "a", "b")
    first = claim(store, "a")
    (due,) = [due for due in store.due(link, 10) if due.fence.run_id == "b"]
    assert claim(store, "b").status == "queued"
    store.mark_sent(link, [(due.fence, 15_000_000, True)])
    ended(store, link, first)
    assert store.let_in(link, ONE) == ["b"], "it waits for what has a message already, and that was dropped"
