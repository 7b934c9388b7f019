"""A person answers a run that waits: on every database alike."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from pydantic import BaseModel, Field

from celery_durable import step
from celery_durable.core.codec import encode
from celery_durable.core.duration import SECOND
from celery_durable.engine.events import event_of
from celery_durable.errors import ConfigurationError, InvalidAnswer, RunNotFound, StepNotFound, WrongStatus
from celery_durable.store.link import Link
from celery_durable.store.store import Store
from tests.engine.driving import Driver

from .operating import Clerk, all_rows, done, driver_of, fail


class Decision(BaseModel):
    approved: bool
    amount: int = Field(gt=0, title="How much")


def waiting(store: Store, body: Any, run_id: str = "r1") -> Driver:
    driver = driver_of(store, body)
    driver.start(run_id)
    driver.one_pass(run_id)
    return driver


def dispatched(store: Store, link: Link, event_id: str) -> list[str]:
    """Deliver an event that is emitted; the runs that it woke."""
    stored = store.event(link, event_id)
    assert stored is not None
    woken = []
    for waits in store.waits_for(link, stored, 100):
        woken += store.deliver(link, stored, encode(event_of(stored)), waits, SECOND)
    return woken


def approval() -> Any:
    event = step.wait_for_event("approval", "order.approved", key="o-1", form=Decision, prompt="Is it right?")
    assert event is not None
    return event.payload.amount


def test_an_answer_goes_to_the_step_that_waits(store: Store, link: Link, clerk: Clerk) -> None:
    driver = waiting(store, approval)
    receipt = clerk.answer("r1", "approval", {"approved": True, "amount": 5}, reason="looks right", by="ann")
    event = clerk.event(receipt.id)
    assert (event.name, event.key, event.payload) == ("order.approved", "o-1", {"approved": True, "amount": 5})
    assert dispatched(store, link, receipt.id) == ["r1"]
    driver.one_pass("r1")
    run = clerk.get("r1")
    assert (run.status, run.result) == ("completed", 5)
    assert [(deed.action, deed.actor, deed.reason) for deed in run.audit] == [("answer", "ann", "looks right")]


def test_an_answer_that_is_given_again_is_emitted_once(store: Store, link: Link, clerk: Clerk) -> None:
    """Whoever repeats a call, not knowing what came of it, would leave an event that the next such wait takes."""

    def twice() -> list[Any]:
        return [step.wait_for_event(name, "order.approved", key="o-1") is not None for name in ("first", "second")]

    driver = waiting(store, twice)
    receipt, again = (clerk.answer("r1", "first", {"approved": True}, by="ann") for _ in range(2))
    assert (again.id, receipt.duplicate, again.duplicate) == (receipt.id, False, True)
    with pytest.raises(WrongStatus, match=r"step 'first' of run 'r1' has just been given another answer"):
        clerk.answer("r1", "first", {"approved": False})
    dispatched(store, link, receipt.id)
    driver.one_pass("r1")
    assert [each.status for each in clerk.get("r1").steps] == ["completed", "waiting"]
    assert [deed.action for deed in clerk.get("r1").audit] == ["answer"]
    assert clerk.answer("r1", "second", {"approved": True}).id != receipt.id  # another wait has another answer


def test_an_answer_may_be_the_form_itself(store: Store, link: Link, clerk: Clerk) -> None:
    waiting(store, approval)
    receipt = clerk.answer("r1", "approval", Decision(approved=True, amount=5))
    assert clerk.event(receipt.id).payload == {"approved": True, "amount": 5}


def test_an_answer_that_does_not_fit_names_the_fields_and_emits_nothing(store: Store, link: Link, clerk: Clerk) -> None:
    waiting(store, approval)
    before = all_rows(store)
    for payload, says in (
        (
            {"approved": "perhaps", "amount": 0},
            r"amount: 0 is less than.*; approved: 'perhaps' is not of type 'boolean'",
        ),
        ({"amount": 1}, "the answer: 'approved' is a required property"),
        ("yes", "the answer: 'yes' is not of type 'object'"),
    ):
        with pytest.raises(InvalidAnswer, match=says) as caught:
            clerk.answer("r1", "approval", payload)
        assert isinstance(caught.value, ValueError)
    assert all_rows(store) == before


def test_an_answer_that_the_match_would_not_take_is_refused(store: Store, link: Link, clerk: Clerk) -> None:
    waiting(store, lambda: step.wait_for_event("w", "paid", match={"order.id": 7}))
    before = all_rows(store)
    with pytest.raises(InvalidAnswer, match="waits for an event with match="):
        clerk.answer("r1", "w", {"order": {"id": 8}})
    assert all_rows(store) == before
    receipt = clerk.answer("r1", "w", {"order": {"id": 7}})
    assert dispatched(store, link, receipt.id) == ["r1"]


def test_only_a_step_that_waits_can_be_answered(store: Store, link: Link, clerk: Clerk) -> None:
    def body() -> None:
        step.run("first", int)
        step.wait_for_event("w")

    waiting(store, body)
    receipt = clerk.answer("r1", "w", None)
    dispatched(store, link, receipt.id)
    before = all_rows(store)
    with pytest.raises(WrongStatus, match=r"does not wait any more \(completed\)"):
        clerk.answer("r1", "w", None)
    with pytest.raises(WrongStatus, match="is no wait for an event"):
        clerk.answer("r1", "first", None)
    with pytest.raises(StepNotFound, match="no step 'second'"):
        clerk.answer("r1", "second", None)
    with pytest.raises(RunNotFound, match="'nowhere'"):
        clerk.answer("nowhere", "w", None)
    assert all_rows(store) == before


def test_a_run_that_has_ended_is_not_answered(store: Store, link: Link, clerk: Clerk) -> None:
    waiting(store, lambda: step.wait_for_event("w"))
    clerk.cancel("r1", force=True)
    with pytest.raises(WrongStatus, match=r"\(cancelled\)"):
        clerk.answer("r1", "w", None)
    done(store, link, _started(store, "r2"))
    with pytest.raises(StepNotFound):
        clerk.answer("r2", "w", None)


def _started(store: Store, run_id: str) -> str:
    driver_of(store, fail).start(run_id)
    return run_id


def test_an_answer_that_another_wait_of_the_run_would_take_is_refused(store: Store, link: Link, clerk: Clerk) -> None:
    def body() -> None:
        with step.parallel() as p:
            p.wait_for_event("chief", "approval")
            p.wait_for_event("manager", "approval", match={"as": "manager"})
            p.wait_for_event("owner", "approval", key="owner")

    waiting(store, body)
    with pytest.raises(WrongStatus, match="'manager' of run 'r1' waits for the same event as step 'chief'"):
        clerk.answer("r1", "manager", {"as": "manager"})
    with pytest.raises(WrongStatus, match=r"'owner' .* the same event as step 'chief'"):
        clerk.answer("r1", "owner", {})
    dispatched(store, link, clerk.answer("r1", "chief", {}).id)
    dispatched(store, link, clerk.answer("r1", "owner", {}).id)  # the other one's match does not hold
    dispatched(store, link, clerk.answer("r1", "manager", {"as": "manager"}).id)
    assert {one.id: one.status for one in clerk.get("r1").steps} == dict.fromkeys(
        ("chief", "manager", "owner"), "completed"
    )


def test_without_what_checks_a_form_it_is_said_what_to_install(
    store: Store, link: Link, clerk: Clerk, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting(store, approval)
    monkeypatch.setitem(sys.modules, "jsonschema", None)
    before = all_rows(store)
    with pytest.raises(ConfigurationError, match=r"pip install \"celery-durable\[console\]\""):
        clerk.answer("r1", "approval", {"approved": True, "amount": 1})
    assert all_rows(store) == before
