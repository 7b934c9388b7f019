"""An order: validate, reserve, perhaps ask a person, charge, ship, confirm. If it fails, all of it is undone."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F
from pydantic import BaseModel, Field

from celery_durable import DurableTask, NonRetryable, Retry, step

from .. import mails, payments
from ..celery import app
from ..models import Product, Sale

ASK_ABOVE = Decimal(100)
UNTIL_IT_WORKS = Retry(max_attempts=1000, delay="1s", max_delay="10m")


class Order(BaseModel):
    id: str
    email: str = Field(pattern=r"^[^@\s]+@[^@\s]+$", max_length=100)
    sku: str
    quantity: int = Field(gt=0, le=1000)
    price: Decimal

    @property
    def total(self) -> Decimal:
        return self.price * self.quantity


class Approval(BaseModel):
    """What a person is asked for, as the console's form shows it."""

    approved: bool
    note: str = Field("", description="The customer reads this if you refuse.")


class Refused(Exception):
    """A person has said no, or nothing, to an order."""


@app.task(base=DurableTask, name="shop.process_order", step_retry=Retry(max_attempts=6, delay="1s"))
def process_order(order: Order) -> str:
    step.on_rollback("apologize", mails.send_apology, order.email, order.id)
    step.run("validate", validate, order)
    step.transaction("reserve", reserve, order)
    step.on_rollback("put-back", put_back, order.id)
    if order.total > ASK_ABOVE:
        ask(order)
    # Before the charge: it may have gone through though its answer was lost.
    step.options(retry=UNTIL_IT_WORKS).on_rollback("refund", payments.refund, order.id)
    charge = step.run("charge", payments.charge, order.id, order.total)
    if charge.state == "pending":  # the payment service calls back, at the door of storefront.py
        step.wait_for_event("settled", "payment.settled", key=order.id, timeout=settings.DAY, on_timeout="fail")
    tracking = step.run("ship", ship, order)
    step.run("confirm", mails.send_confirmation, order.email, order.id, tracking)
    return tracking


def ask(order: Order) -> None:
    """Verbs work in functions that the body calls, too."""
    answer = step.wait_for_event(
        "approval",
        "order.approval",
        key=order.id,
        form=Approval,
        prompt=f"{order.email} orders {order.quantity} x {order.sku} for {order.total} dollars. Shall we?",
        timeout=2 * settings.DAY,
    )
    if answer is None:
        raise Refused("nobody has looked at it in time")
    if not answer.payload.approved:
        raise Refused(answer.payload.note or "no reason was given")


def validate(order: Order) -> None:
    product = Product.objects.filter(sku=order.sku).first()
    if product is None:
        raise NonRetryable(f"there is no product {order.sku}")
    if product.price != order.price:
        raise NonRetryable(f"{product.name} costs {product.price} now, and not {order.price}")


def reserve(connection: Any, order: Order) -> None:
    product = Product.objects.filter(sku=order.sku)
    if not product.filter(stock__gte=order.quantity).update(stock=F("stock") - order.quantity):
        raise NonRetryable(f"fewer than {order.quantity} are left")
    Sale.objects.create(order=order.id, product_id=order.sku, quantity=order.quantity, total=order.total)


@transaction.atomic
def put_back(order_id: str) -> None:
    """An undo is done again if its worker dies: the second time there is no sale to take back."""
    for sale in Sale.objects.select_for_update().filter(order=order_id):
        Product.objects.filter(sku=sale.product_id).update(stock=F("stock") + sale.quantity)
        sale.delete()


def ship(order: Order) -> str:
    """Where a carrier would be called, with ``step.current().idempotency_key`` as the payment service is."""
    return f"PARCEL-{order.id[:8]}"
