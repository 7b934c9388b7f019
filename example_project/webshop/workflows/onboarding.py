"""From the sign-up to an account that is open: the mail, the click, and who never clicks."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from celery_durable import DurableTask, step

from .. import mails
from ..celery import app
from ..models import Customer


@app.task(base=DurableTask, name="shop.onboard")
def onboard(email: str, name: str) -> str:
    customer = step.transaction("create-customer", create_customer, email, name)
    if customer is None:
        return "known"
    step.run("send-link", mails.send_link, customer)
    click = step.wait_for_event("click", "email.verified", key=f"customer:{customer}", timeout=settings.DAY)
    if click is None:
        step.run("remind", mails.send_reminder, customer)
        click = step.wait_for_event(
            "late-click", "email.verified", key=f"customer:{customer}", timeout=6 * settings.DAY
        )
    if click is None:
        step.transaction("forget", forget, customer)
        return "forgotten"
    step.transaction("unlock", unlock, customer)
    step.emit("tell", "customer.joined", {"customer": customer})  # starts what is in trials.py
    return "unlocked"


# The writes and the records of these steps are one transaction each: whenever the worker dies, they happen once.


def create_customer(connection: Any, email: str, name: str) -> int | None:
    """``None`` if there is such a customer: whose mail is on its way, or whose account is open."""
    customer, is_new = Customer.objects.get_or_create(email=email, defaults={"name": name})
    return customer.pk if is_new else None


def unlock(connection: Any, customer: int) -> None:
    Customer.objects.filter(pk=customer).update(unlocked=True)


def forget(connection: Any, customer: int) -> None:
    Customer.objects.filter(pk=customer, unlocked=False).delete()
