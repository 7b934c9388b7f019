"""Verbs hand on the types of what they are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session
from typing_extensions import assert_type

from celery_durable import Event, Retry, get_logger, step


@dataclass
class Charge:
    id: str
    amount: int


class Bank:
    def charge(self, amount: int, *, currency: str = "EUR") -> Charge:
        return Charge("c", amount)


def save(session: Session, charge: Charge) -> int:
    return charge.amount


@step
def fetch(user: str) -> list[int]:
    return [len(user)]


@step(retry=Retry(max_attempts=2), timeout="5s")
def fetch_slowly(user: str) -> list[int]:
    return [len(user)]


def body(bank: Bank) -> None:
    charge = step.run("charge", bank.charge, 100, currency="USD")
    assert_type(charge, Charge)
    assert_type(step.run("one", lambda: 1), int)
    assert_type(step.options(timeout="5s").run("again", bank.charge, 100), Charge)
    assert_type(step.transaction("save", save, charge), int)
    assert_type(step.map("all", bank.charge, [1, 2], limit=2), list[Charge])
    assert_type(step.wrap("bank", bank).charge(1), Charge)
    assert_type(fetch("ada"), list[int])
    assert_type(fetch_slowly("ada"), list[int])
    assert_type(step.call("score", "shop.score"), Any)
    assert_type(step.now(), datetime)
    assert_type(step.random(), float)
    assert_type(step.uuid4(), UUID)
    assert_type(step.patched("v2"), bool)
    assert_type(step.state.delete("key"), bool)
    assert_type(step.current().attempt, int)
    assert_type(step.current().idempotency_key, str)
    step.sleep("1h")
    step.sleep("rest", 3600)
    step.sleep_until("morning", step.now())
    step.on_rollback("undo", bank.charge, -100)
    with step.lock("exclusive", "account-7", ttl="10m") as nothing:
        assert_type(nothing, None)
    get_logger(__name__).info("charged %s", charge.id)


def wrong(bank: Bank) -> None:
    step.run("charge", bank.charge, "a lot")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    step.run("charge", bank.charge)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    step.transaction("save", save, 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    step.sleep("rest", None)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    fetch(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def events(names: Sequence[str]) -> None:
    assert_type(step.wait_for_event("paid"), Event)
    assert_type(step.wait_for_event("paid", key="o-1", timeout="1h"), Event | None)
    assert_type(step.wait_for_event("paid", timeout="1h", on_timeout="none"), Event | None)
    assert_type(step.wait_for_event("paid", timeout="1h", on_timeout="fail"), Event)
    assert_type(step.wait_for_event("paid", timeout="1h", on_timeout="cancel").payload, Any)
    assert_type(step.emit("tell", "order.paid", {"names": list(names)}, key="o-1"), str)
