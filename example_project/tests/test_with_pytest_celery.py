"""The shop on a real broker and a real database, with a worker that may be killed: pytest-celery's ``celery_setup``."""

from __future__ import annotations

from decimal import Decimal

from example_project.shop import Order, process_order, process_transfer_order

from .shop_setup import LIMIT, ShopJournal, ShopSetup, wait_until


def order(order_id: str) -> Order:
    return Order(id=order_id, email="ada@example.com", total=Decimal("24.50"))


def test_an_order_is_processed(celery_setup: ShopSetup) -> None:
    result = process_order.apply_async((order("ORD-101"),), task_id="ORD-101")

    assert result.get(timeout=LIMIT)["tracking"] == "TRACK-ORD-101"
    run = celery_setup.wait_for("ORD-101", "completed")
    assert [step.id for step in run.steps] == ["validate", "charge", "ship", "confirm"]


def test_an_order_survives_its_worker(celery_setup: ShopSetup, journal: ShopJournal) -> None:
    result = process_order.apply_async((order("ORD-102"),), task_id="ORD-102")
    wait_until(lambda: journal.count_of("ORD-102", "ship") == 1, "the parcel is being shipped")

    celery_setup.worker.kill()
    assert celery_setup.durable.get("ORD-102").status == "running", "as nobody has noticed yet"
    celery_setup.worker.restart()

    assert result.get(timeout=LIMIT)["tracking"] == "TRACK-ORD-102"
    assert journal.count_of("ORD-102", "pass") >= 2
    assert journal.count_of("ORD-102", "validate") == 1
    assert journal.count_of("ORD-102", "charge", "succeeded") == 1
    assert journal.count_of("ORD-102", "ship") == 2, "the step that was killed is the one that is done again"
    assert journal.count_of("ORD-102", "confirm") == 1


def test_an_order_waits_for_its_money(celery_setup: ShopSetup, journal: ShopJournal) -> None:
    result = process_transfer_order.apply_async((order("ORD-103"),), task_id="ORD-103")
    celery_setup.wait_for("ORD-103", "suspended")
    assert journal.count_of("ORD-103", "ship") == 0

    celery_setup.durable.emit("transfer.received", {"transaction": "txn-9"}, key="order:ORD-103")

    assert result.get(timeout=LIMIT)["tracking"] == "TRACK-ORD-103"
    assert journal.count_of("ORD-103", "ship", "paid by txn-9") == 1
