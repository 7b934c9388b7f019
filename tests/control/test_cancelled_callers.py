"""A run is to be cancelled, or its time is up, when what it has called has failed: the body is told, once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from celery_durable import step
from celery_durable.aio import step as aio
from celery_durable.core.duration import SECOND
from celery_durable.engine.executor import Cancelled, Ended, Failed
from celery_durable.errors import RunTimeout
from celery_durable.store.link import Link
from celery_durable.store.records import Claim
from celery_durable.store.store import Store
from tests.store.making import put

from .operating import LEASE, Clerk, done, driver_of, rows_of_run

MOST = 50
"""Writes of one pass, of which each of these needs a few."""


def one_call() -> Any:
    return step.call("one", "below")


def two_calls() -> None:
    with step.parallel() as p:
        p.call("one", "below")
        p.call("two", "below")


def a_call_in_a_race() -> None:
    with step.race() as r:
        r.call("one", "below")
        r.wait_for_event("event")


async def awaited() -> None:
    await asyncio.gather(aio.call("one", "below"), aio.call("two", "below"))


@pytest.fixture
def no_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that goes round in circles is stopped."""
    change, count = store.change, iter(range(MOST))

    def counted(*args: Any, **kwargs: Any) -> Any:
        if next(count, None) is None:
            raise AssertionError("the pass goes round in circles")
        return change(*args, **kwargs)

    monkeypatch.setattr(store, "change", counted)


@pytest.mark.usefixtures("no_end")
@pytest.mark.parametrize("how", ["failed", "cancelled", "completed"])
@pytest.mark.parametrize("why", ["cancelled", "overdue"])
@pytest.mark.parametrize("body", [one_call, two_calls, a_call_in_a_race, awaited])
def test_who_is_cancelled_when_its_call_has_ended_is_told(
    store: Store, link: Link, clerk: Clerk, body: Callable[[], Any], how: str, why: str
) -> None:
    driver = driver_of(store, body)
    driver.start()
    driver.one_pass()
    child = str(driver.steps()["one"]["child"])
    if why == "cancelled":
        clerk.cancel("r1", reason="over")
    if how == "cancelled":
        clerk.cancel(child)
    else:
        done(store, link, child, how)
    put(store, link, wake_at=None)
    if why == "overdue":
        put(store, link, deadline_at=store.now(link) - SECOND)
    claim = store.claim(link, "r1", worker="w", lease=LEASE)
    assert isinstance(claim, Claim)
    ended: Ended = driver.execute(link, claim)
    if (why, how) == ("overdue", "completed") and body in (one_call, a_call_in_a_race):
        assert driver.run()["status"] == "completed"  # it was through, and had nothing left to be told at
    elif why == "cancelled":
        assert ended == Cancelled("over")
    else:
        assert isinstance(ended, Failed)
        assert isinstance(ended.error, RunTimeout)
    assert rows_of_run(store, "r1")["wait"] == 0
    assert {row["status"] for row in driver.steps().values()} <= {"completed", "failed", "cancelled"}
