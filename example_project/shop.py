"""The shop: a Celery app, four steps, and the workflows that make them durable tasks.

This is all the code that a user of celery_durable writes; ``demo.py`` only starts workers, kills one, and
shows what happens, and ``tests/`` tries it on real parts. The places for the database and the broker come from the
environment, as in production.
"""

from __future__ import annotations

import json
import os
import random
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from celery import Celery
from pydantic import BaseModel

from celery_durable import DurableTask, Retry, step

FOLDER = Path(os.environ.get("SHOP_FOLDER", "."))

app = Celery("shop")
app.conf.update(
    # The embedded default needs no server: SQLite for the record, files for the broker.
    durable_database_url=f"sqlite:///{FOLDER / 'shop.db'}",
    durable_lease="2s",  # how long a dead worker's run waits; a demo is impatient, 30 seconds are the default
    broker_url="filesystem://",
    broker_transport_options={
        "data_folder_in": str(FOLDER / "broker"),
        "data_folder_out": str(FOLDER / "broker"),
        "control_folder": str(FOLDER / "control"),
        "polling_interval": 0.05,
    },
    result_backend=f"file://{FOLDER / 'results'}",
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
)


class Order(BaseModel):
    id: str
    email: str
    total: Decimal


class Charge(BaseModel):
    transaction: str
    amount: Decimal


class CardNetworkDown(Exception):
    """The payment service could not be reached: worth another attempt."""


# ------------------------------------------------------------------ the steps


def validate(order: Order) -> None:
    tell(order, "validate", f"{order.total} dollars, {order.email}")


def charge(order: Order) -> Charge:
    current = step.current()
    # Three in ten attempts fail. The dice are thrown by order and attempt, so each demo is the same.
    if random.Random(f"{order.id}/{current.attempt}/99").random() < 0.3:
        tell(order, "charge", f"attempt {current.attempt} failed: card network down")
        raise CardNetworkDown(f"no answer for {order.id}")
    tell(order, "charge", f"attempt {current.attempt} succeeded (idempotency key {current.idempotency_key})")
    return Charge(transaction=f"txn_{order.id.lower()}", amount=order.total)


def ship(order: Order, charged: Charge) -> str:
    tell(order, "ship", f"calling the carrier, paid by {charged.transaction}")
    time.sleep(float(os.environ.get("SHOP_CARRIER_SECONDS", "0.7")))
    tell(order, "shipped", "the parcel is on its way")
    return f"TRACK-{order.id}"


def confirm(order: Order, tracking: str) -> None:
    tell(order, "confirm", f"mail to {order.email}: {tracking}")


# -------------------------------------------------------------- the workflows


@app.task(base=DurableTask, step_retry=Retry(max_attempts=6, delay="0.5s", jitter=False))
def process_order(order: Order) -> dict[str, Any]:
    tell(order, "pass", "the function is called from its first line")
    step.run("validate", validate, order)
    charged = step.run("charge", charge, order)
    tracking = step.run("ship", ship, order, charged)
    step.run("confirm", confirm, order, tracking)
    return {"order": order.id, "paid": charged.amount, "tracking": tracking}


@app.task(base=DurableTask)
def process_transfer_order(order: Order) -> dict[str, Any] | None:
    """An order that is paid by bank transfer: shipped when the money is there, dropped after two weeks."""
    step.run("validate", validate, order)
    transfer = step.wait_for_event("transfer.received", key=f"order:{order.id}", timeout="14d")
    if transfer is None:
        return None
    paid = Charge(transaction=transfer.payload["transaction"], amount=order.total)
    tracking = step.run("ship", ship, order, paid)
    step.run("confirm", confirm, order, tracking)
    return {"order": order.id, "paid": paid.amount, "tracking": tracking}


def tell(order: Order, what: str, text: str) -> None:
    """Append a line to the journal that the demo prints. One write: a killed worker leaves no half a line."""
    line = json.dumps({"order": order.id, "what": what, "text": text, "worker": os.environ.get("SHOP_WORKER", "?")})
    with (FOLDER / "journal").open("ab", buffering=0) as journal:
        journal.write(line.encode() + b"\n")
