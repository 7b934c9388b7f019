"""Pages that look no further than they may, and figures that count no further: on every database alike."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import update

from celery_durable import step
from celery_durable.client import figures
from celery_durable.core.duration import SECOND, as_datetime
from celery_durable.engine.events import new_event
from celery_durable.model import Page, Run
from celery_durable.store import finding
from celery_durable.store.lines import Line
from celery_durable.store.link import Link
from celery_durable.store.statements import finding as statements
from celery_durable.store.store import Store
from tests.store.calling import called
from tests.store.making import put, taken

from .operating import LEASE, STATUSES, Clerk, begin, driver_of, emitted, in_status

LONG_AGO = 1_600_000_000 * SECOND


@pytest.fixture
def short_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that looks into six runs, three at a time."""
    monkeypatch.setattr(finding, "LOOKED_INTO_AT_MOST", 6)
    monkeypatch.setattr(finding, "_AT_ONCE", 3)


def needles(store: Store, link: Link, count: int, *places: int) -> None:
    """Runs one second after the other, of which those at these places have a needle in their input."""
    for number in range(count):
        begin(store, link, f"r{number:02}", args=("needle" if number in places else "hay",))
        put(store, link, f"r{number:02}", created_at=LONG_AGO + number * SECOND)


def pages(clerk: Clerk, **which: Any) -> list[list[str]]:
    found, after = [], None
    while True:
        page: Page[Run] = clerk.runs(**which, after=after)
        found.append([run.id for run in page])
        if page.next is None:
            return found
        after = page.next


# -- A search


def test_a_page_of_a_search_ends_where_it_has_looked_far_enough(
    store: Store, link: Link, clerk: Clerk, short_sight: None
) -> None:
    needles(store, link, 20, 1, 4, 13, 17, 18)
    assert pages(clerk, search="needle") == [["r18", "r17"], ["r13"], ["r04"], ["r01"]]
    assert pages(clerk, search="nothing of it") == [[], [], [], []]


def test_a_full_page_of_a_search_goes_on_after_its_last_run(
    store: Store, link: Link, clerk: Clerk, short_sight: None
) -> None:
    needles(store, link, 12, 1, 4, 7, 9, 10, 11)
    found = pages(clerk, search="needle", limit=2)
    assert [run for page in found for run in page] == ["r11", "r10", "r09", "r07", "r04", "r01"]
    assert max(map(len, found)) == 2


def test_the_run_of_the_id_that_is_searched_is_first_and_there_once(
    store: Store, link: Link, clerk: Clerk, short_sight: None
) -> None:
    needles(store, link, 20)
    begin(store, link, "r03-again")
    assert pages(clerk, search="r03")[0] == ["r03", "r03-again"]
    for limit in (1, 2, 100):
        found = [run for page in pages(clerk, search="r03", limit=limit) for run in page]
        assert found == ["r03", "r03-again"]
    assert pages(clerk, search="r03", status="failed")[0] == []
    assert pages(clerk, search="r03", until=as_datetime(LONG_AGO))[0] == []


def test_what_a_run_waits_for_is_looked_for_among_those_that_wait(
    store: Store, link: Link, clerk: Clerk, short_sight: None
) -> None:
    driver = driver_of(store, lambda: step.wait_for_event("w", "paid"))
    for number in range(2):
        driver.start(f"w{number}")
        driver.one_pass(f"w{number}")
        put(store, link, f"w{number}", created_at=LONG_AGO + number)
    for number in range(8):
        in_status(store, link, "completed", f"done-{number}")
    assert pages(clerk, waiting_on="paid") == [["w1", "w0"]]
    assert pages(clerk, waiting_on="paid", status="completed") == [[]]


def test_many_are_handled_past_the_pages_that_hold_none(
    store: Store, link: Link, clerk: Clerk, short_sight: None
) -> None:
    needles(store, link, 20, 1, 4, 13, 17)
    assert [one.run_id for one in clerk.cancel_all(search="needle", limit=3)] == ["r17", "r13", "r04"]
    rest = clerk.cancel_all(search="needle")
    assert ([one.run_id for one in rest], rest.next) == (["r01"], None)


def test_runs_of_several_statuses_and_of_a_task_are_in_order(store: Store, link: Link, clerk: Clerk) -> None:
    for number in range(14):
        in_status(store, link, ("pending", "failed", "suspended", "completed")[number % 4], f"r{number:02}")
        put(store, link, f"r{number:02}", created_at=LONG_AGO + number // 3, task="rare" if number % 2 else "t")
    wanted = [f"r{number:02}" for number in (13, 9, 5, 1)]
    assert [run for page in pages(clerk, status=("failed", "paused"), limit=3) for run in page] == wanted
    assert [run for page in pages(clerk, task="rare", status="failed", limit=1) for run in page] == wanted
    assert [run for page in pages(clerk, task="rare", limit=2) for run in page] == [
        f"r{number:02}" for number in (13, 11, 9, 7, 5, 3, 1)
    ]


# -- Counts


def test_what_a_filter_holds_for_is_counted_by_status(store: Store, link: Link, clerk: Clerk) -> None:
    for status in STATUSES:
        in_status(store, link, status, status)
    called(store, link, "plain", kind="task", parent="calls")
    all_of_them = {
        "pending": 1, "running": 1, "suspended": 2, "paused": 2, "completed": 1, "failed": 1, "cancelled": 1,
    }  # fmt: skip
    none = dict.fromkeys(all_of_them, 0)
    assert clerk.counts() == clerk.counts(task="t") == all_of_them
    assert clerk.counts(task="other") == none
    assert clerk.counts(status="paused") == clerk.counts(status=["paused"], task="t") == none | {"paused": 2}
    assert clerk.counts(status=[]) == none
    assert clerk.counts(until=as_datetime(LONG_AGO)) == none
    assert clerk.counts(parent="calls") == none  # an ordinary task is no run
    with pytest.raises(TypeError):
        clerk.counts(tasks="t")


def test_children_and_takers_are_counted(store: Store, link: Link, clerk: Clerk) -> None:
    called(store, link, "a", "b", parent="calls")
    assert clerk.counts(parent="calls")["pending"] == 2
    driver = driver_of(store, lambda: step.wait_for_event("w", "paid"))
    driver.start("w")
    driver.one_pass("w")
    assert emitted(store, link, "paid", None, "e-1") == ["w"]
    assert clerk.counts(event="e-1")["suspended"] == 1


def test_nothing_is_counted_beyond_the_limit(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (finding, statements):
        monkeypatch.setattr(module, "COUNTED_AT_MOST", 3)
    store = Store(database_url)
    store.migrate()
    clerk = Clerk(store)
    with store.link() as link:
        for number in range(5):
            begin(store, link, f"r{number}")
    assert clerk.counts()["pending"] == clerk.counts(task="t")["pending"] == clerk.counts(search="r")["pending"] == 3
    store.engine.dispose()


def test_a_search_is_counted_among_those_that_are_looked_at(
    store: Store, link: Link, clerk: Clerk, short_sight: None
) -> None:
    needles(store, link, 20, 1, 15, 16, 17)
    assert clerk.counts(search="needle")["pending"] == 3
    assert clerk.counts(search="r00")["pending"] == 1  # whatever its age
    assert clerk.counts(search="r19")["pending"] == 1
    assert clerk.counts(search="needle", status="failed")["pending"] == 0


# -- Over time


def test_runs_over_time(store: Store, link: Link, clerk: Clerk) -> None:
    now = store.now(link)
    for number, (status, ago, took) in enumerate(
        [("completed", 30, 2), ("completed", 29, 4), ("failed", 25, 9), ("completed", 95, 1), ("pending", 5, 0)]
    ):
        in_status(store, link, status, f"r{number}")
        made = now - ago * SECOND
        times = {"started_at": made, "finished_at": made + took * SECOND} if status != "pending" else {}
        put(store, link, f"r{number}", created_at=made, **times)
    put(store, link, "r2", task="other")
    last = clerk.activity(since="1m", periods=2)
    assert (len(last.periods), last.sampled, last.counted_since) == (2, False, None)
    assert sum(sum(period.statuses.values()) for period in last.periods) == 4
    assert last.periods[0].until == last.periods[1].since
    assert last.periods[1].until - last.periods[0].since == timedelta(minutes=1)
    whole = clerk.activity(since=timedelta(seconds=60), periods=1).periods[0]
    assert (whole.statuses["completed"], whole.statuses["failed"], whole.statuses["running"]) == (2, 1, 0)
    assert (whole.p50, whole.p95) == (2.0, 4.0)
    assert clerk.activity(since=120, periods=1).periods[0].p50 == 2.0
    other = clerk.activity(since=datetime.now(timezone.utc) - timedelta(days=1), task="other", periods=1).periods[0]
    assert (other.statuses["failed"], other.p50) == (1, None)
    assert len(clerk.activity().periods) == 48


def test_too_many_runs_over_time_are_sampled(
    store: Store, link: Link, clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (finding, figures):
        monkeypatch.setattr(module, "LOOKED_AT_MOST", 3)
    now = store.now(link)
    for number in range(5):
        begin(store, link, f"r{number}")
        put(store, link, f"r{number}", created_at=now - (9 - number) * SECOND)
    for which in ({}, {"task": "t"}):
        found = clerk.activity(since="1m", periods=1, **which)
        assert (found.sampled, found.periods[0].statuses["pending"]) == (True, 3)
        assert found.counted_since == as_datetime(now - 7 * SECOND)
    assert clerk.activity(since=as_datetime(now - 8 * SECOND)).sampled is True
    assert clerk.activity(since=as_datetime(now - 7 * SECOND)).sampled is False


@pytest.mark.parametrize(
    "wrong",
    [{"periods": 0}, {"periods": True}, {"periods": 5000}, {"since": "yesterday"}, {"since": 0}, {"since": -5},
     {"since": datetime(2026, 1, 1)},  # noqa: DTZ001
     {"since": datetime(2100, 1, 1, tzinfo=timezone.utc)}, {"task": ""}],
)  # fmt: skip
def test_what_can_t_be_told_over_time_is_refused(sqlite_url: str, wrong: dict[str, Any]) -> None:
    store = Store(sqlite_url)
    store.migrate()
    with pytest.raises(ValueError):
        Clerk(store).activity(**wrong)
    store.engine.dispose()


# -- Now


def test_who_executes_what_and_what_waits(store: Store, link: Link, clerk: Clerk) -> None:
    empty = clerk.workload()
    assert (empty.workers, empty.sweeper, empty.due, empty.lag, empty.asleep, empty.queued) == ((), None, 0, 0.0, 0, 0)
    now = store.now(link)
    for number in range(3):
        taken(store, link, f"run-{number}")
    put(store, link, "run-2", worker="w/2")
    begin(store, link, "late")
    put(store, link, "late", due_at=now - 90 * SECOND)
    for name in ("asleep", "later"):
        begin(store, link, name)
        put(store, link, name, status="suspended", due_at=now + 900 * SECOND)
    assert store.take_lease(link, "sweeper", "host/1/ab", LEASE)
    for name in ("first", "second"):
        begin(store, link, name)
        store.claim(link, name, worker="w/2", lease=LEASE, line=Line("t", 1))
    found = clerk.workload()
    assert [(worker.name, worker.runs_total, worker.sweeps) for worker in found.workers] == [
        ("w/1", 2, False), ("w/2", 2, False), ("host/1/ab", 0, True),
    ]  # fmt: skip
    assert set(found.workers[0].runs) == {"run-0", "run-1"}
    assert found.workers[0].lease_until is not None
    assert found.workers[2].lease_until is None
    assert (found.sweeper, found.queued, found.due, found.asleep) == ("host/1/ab", 1, 1, 2)
    assert found.sweeper_until is not None
    assert found.sweeper_until > found.clock
    assert 89 < found.lag < 300
    assert (found.undispatched_events, found.event_lag) == (0, 0.0)


def test_events_that_are_not_dispatched_are_part_of_the_workload(store: Store, link: Link, clerk: Clerk) -> None:
    emitted(store, link, "done")
    event = store.tables.event
    store.emit(link, new_event("e-2", "late", {}, None, max_payload=100), SECOND)
    link.run(
        lambda at: at.execute(update(event).where(event.c.id == "e-2").values(due_at=store.now(link) - 60 * SECOND))
    )
    found = clerk.workload()
    assert found.undispatched_events == 1
    assert 59 < found.event_lag < 300


# -- Who waits


def test_the_runs_that_an_event_would_be_looked_at_by(store: Store, link: Link, clerk: Clerk) -> None:
    for run_id, key in (("any", None), ("one", "k1"), ("two", "k2")):
        driver = driver_of(store, lambda key=key: step.wait_for_event("w", "paid", key=key))
        driver.start(run_id)
        driver.one_pass(run_id)
    both = driver_of(store, _twice)
    both.start("twice")
    both.one_pass("twice")
    assert clerk.waiting("paid") == (("any", "twice"), 2)
    assert clerk.waiting("paid", "k1") == (("any", "one", "twice"), 3)
    assert clerk.waiting("paid", "k2", limit=1) == (("any",), 3)
    assert clerk.waiting("pai").total == clerk.waiting("lost", "k1").total == 0
    for wrong in (("paid*", None), ("", None), ("paid", "")):
        with pytest.raises(ValueError):
            clerk.waiting(*wrong)


def _twice() -> None:
    with step.parallel() as p:
        p.wait_for_event("first", "paid")
        p.wait_for_event("second", "paid")
