"""Operations on many runs: in pages, saying what was done to each; on every database."""

from __future__ import annotations

from typing import Any

import pytest

from celery_durable.model import Handled, Page
from celery_durable.store.link import Link
from celery_durable.store.store import Store
from tests.store.making import put

from .operating import STATUSES, Clerk, all_rows, in_status


def test_many_are_handled_in_pages_that_can_be_gone_on_from(store: Store, link: Link, clerk: Clerk) -> None:
    for number in range(10):
        in_status(store, link, ("pending", "completed", "suspended", "paused", "failed")[number % 5], f"r{number}")
    handled: list[Handled] = []
    after, pages = None, 0
    while True:
        page = clerk.cancel_all(task="t", limit=2, after=after, reason="over", by="ann")
        assert isinstance(page, Page)
        handled += page
        pages += 1
        in_status(store, link, "pending", f"late-{pages}")
        if page.next is None:
            break
        after = page.next
    assert [(one.run_id, one.done, one.why_not) for one in handled] == [
        (f"r{number}", True, None) for number in (8, 7, 5, 3, 2, 0)
    ]
    assert pages == 3
    assert [deed.run_id for deed in clerk.audit() if deed.action == "cancel"] == [one.run_id for one in handled][::-1]
    assert {clerk.get(f"late-{page}").status for page in range(1, 4)} == {"pending"}
    assert set(clerk.followed.wake) == {one.run_id for one in handled}


def test_what_was_not_done_says_why(store: Store, link: Link, clerk: Clerk) -> None:
    for status in STATUSES:
        in_status(store, link, status, status)

    def done_by(page: Page[Handled]) -> dict[str, bool]:
        assert all(one.done == (one.why_not is None) for one in page)
        return {one.run_id: one.done for one in page}

    assert done_by(clerk.resume_all(status=("paused", "completed"))) == {
        "paused": True, "stuck": True, "completed": False,
    }  # fmt: skip
    assert done_by(clerk.retry_all(task="t")) == {"failed": True}
    (kept,) = clerk.cancel_all(status="completed", search="complete")
    assert kept.why_not == "run 'completed' is completed: it has ended and can't be cancelled any more"
    assert done_by(clerk.retry_all(task="t")) == {}
    assert set(done_by(clerk.cancel_all(task="t", force=True))) == set(STATUSES) - {"completed", "cancelled"}
    assert clerk.stats().statuses["cancelled"] == 7


def test_many_are_not_handled_by_accident(store: Store, link: Link, clerk: Clerk) -> None:
    in_status(store, link, "pending")
    before = all_rows(store)
    for which, error in (
        ({}, ValueError),
        ({"task": None, "status": None}, ValueError),
        ({"task": ""}, ValueError),
        ({"status": "ready"}, ValueError),
        ({"status": []}, ValueError),
        ({"status": ()}, ValueError),
        ({"tasks": "t"}, TypeError),
        ({"task": "t", "limit": 0}, ValueError),
        ({"task": "t", "limit": 5000}, ValueError),
    ):
        for many in (clerk.cancel_all, clerk.retry_all, clerk.resume_all):
            with pytest.raises(error):
                many(**which)
    assert all_rows(store) == before


def test_a_run_that_is_forgotten_meanwhile_does_not_end_the_rest(
    store: Store, link: Link, clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        in_status(store, link, "failed", f"r{number}")
    put(store, link, "r1", keep_until=1, delivered_at=1)
    listing = store.list_runs

    def and_then_forget(*args: Any, **kwargs: Any) -> Any:
        found = listing(*args, **kwargs)
        store.forget_runs(link)
        return found

    monkeypatch.setattr(store, "list_runs", and_then_forget)
    handled = clerk.retry_all(status="failed")
    assert {one.run_id: one.done for one in handled} == {"r2": True, "r1": False, "r0": True}
    assert set(clerk.followed.wake) == {"r0", "r2"}
