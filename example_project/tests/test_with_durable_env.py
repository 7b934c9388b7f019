"""Nearly all tests of a workflow are like these: no worker, no broker, and two weeks pass at once."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from celery_durable.testing import DurableEnv
from example_project import shop
from example_project.shop import CardNetworkDown, Charge, Order, process_order, process_transfer_order

ORDER = Order(id="ORD-7", email="ada@example.com", total=Decimal("19.90"))
PAID = Charge(transaction="txn-7", amount=ORDER.total)


@pytest.fixture(autouse=True)
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shop, "FOLDER", tmp_path)


def test_an_order_is_charged_again_when_the_card_network_is_down(durable_env: DurableEnv) -> None:
    durable_env.mock("ship", returns="TRACK-7")
    charge = durable_env.mock(shop.charge, side_effect=[CardNetworkDown("no answer"), PAID])
    run = durable_env.start(process_order, ORDER)
    run.assert_waiting_on("attempt 2 of step 'charge', after CardNetworkDown: no answer")
    durable_env.advance("1s")
    run.assert_completed({"order": "ORD-7", "paid": Decimal("19.90"), "tracking": "TRACK-7"})
    assert [call.attempt for call in charge.calls] == [1, 2]


def test_a_transfer_ships_the_order(durable_env: DurableEnv) -> None:
    durable_env.mock(shop.ship, returns="TRACK-7")
    run = durable_env.start(process_transfer_order, ORDER)
    durable_env.advance("3d")
    durable_env.emit("transfer.received", {"transaction": "T-1"}, key="order:ORD-7")
    run.assert_steps("validate", "transfer.received", "ship", "confirm")
    run.assert_completed()


def test_an_order_that_nobody_pays_is_dropped(durable_env: DurableEnv) -> None:
    run = durable_env.start(process_transfer_order, ORDER)
    durable_env.advance("14d")
    run.assert_completed(None)


def test_the_workflows_replay(durable_env: DurableEnv) -> None:
    durable_env.mock("ship", returns="TRACK-7")
    durable_env.mock("charge", returns=PAID)
    # What it writes to the journal in its body is for the demo: it shows how often the body is executed.
    durable_env.check_replay(process_order, ORDER, allow=["tell"])
    durable_env.check_replay(
        process_transfer_order,
        ORDER,
        script=lambda env: env.emit("transfer.received", {"transaction": "T-1"}, key="order:ORD-7"),
    )
