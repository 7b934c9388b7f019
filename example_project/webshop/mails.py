"""Mails, by SMTP.

A step may be done twice, if its worker dies between sending and recording. Both mails have one Message-ID then, by
which mail programs show them as one.
"""

from __future__ import annotations

from django.conf import settings
from django.core.mail import EmailMessage
from django.core.signing import dumps, loads

from celery_durable import step

from .models import Customer

_SALT = "webshop.verify"


def send_link(customer_id: int) -> None:
    customer = Customer.objects.get(pk=customer_id)
    send(customer.email, "Is this your address?", f"Hello {customer.name}, please confirm it:\n\n{link(customer_id)}")


def send_reminder(customer_id: int) -> None:
    customer = Customer.objects.get(pk=customer_id)
    send(customer.email, "Your account still waits", f"It is a click away:\n\n{link(customer_id)}")


def send_follow_up(customer_id: int) -> None:
    customer = Customer.objects.get(pk=customer_id)
    send(customer.email, "How was the free box?", f"Hello {customer.name}, three days are over. Did you like it?")


def send_confirmation(email: str, order_id: str, tracking: str) -> None:
    send(email, "Your order is on its way", f"Order {order_id} has been shipped: {tracking}")


def send_apology(email: str, order_id: str) -> None:
    send(email, "Your order came to nothing", f"Order {order_id} was not possible. What you have paid is paid back.")


def send_report(lines: list[str]) -> None:
    send(settings.MANAGER, "What was sold", "\n".join(lines))


def send(to: str, subject: str, text: str) -> None:
    message_id = f"<{step.current().idempotency_key}@shop.example>"
    EmailMessage(subject, text, to=[to], headers={"Message-ID": message_id}).send()


def link(customer_id: int) -> str:
    return f"{settings.SITE_URL}/verify/{dumps(customer_id, salt=_SALT)}/"


def customer_of(token: str) -> int:
    """Whose link it is; ``BadSignature`` if it is none of ours, or an old one."""
    customer: int = loads(token, salt=_SALT, max_age=7 * settings.DAY)
    return customer
