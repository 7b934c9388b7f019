"""Transactions over the ORM, as the branches of everything that can have them."""

from __future__ import annotations

import threading
from typing import Any

from celery import shared_task
from django.db.models import F

from celery_durable import DurableTask, Retry, step
from celery_durable.aio import step as aio

from .models import Order


def pay(connection: Any, number: str) -> int:
    """Pay once more."""
    Order.objects.filter(number=number).update(paid=F("paid") + 1)
    return Order.objects.get(number=number).paid


def pay_and_fail(connection: Any, number: str) -> None:
    pay(connection, number)
    raise ValueError("the card was refused")


def pay_by_hand(connection: Any, number: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE django_shop_order SET paid = paid + 1 WHERE number = %s", [number])


given_up = threading.Event()
late: list[threading.Thread] = []
"""The threads of functions that went on when their time was up."""


def pay_too_slowly(connection: Any, number: str) -> None:
    late.append(threading.current_thread())
    pay(connection, number)
    given_up.wait(30)
    pay(connection, number)


@shared_task(base=DurableTask)
def paying(number: str) -> int:
    paid = step.transaction("pay", pay, number)
    step.transaction("pay-by-hand", pay_by_hand, number)
    return paid


@shared_task(base=DurableTask)
def refused(number: str) -> str:
    try:
        step.options(retry=Retry(max_attempts=1)).transaction("pay", pay_and_fail, number)
    except ValueError as error:
        return str(error)
    return "not refused"


@shared_task(base=DurableTask)
def side_by_side(numbers: list[str]) -> list[int]:
    with step.parallel() as p:
        paid = [p.transaction(f"pay-{number}", pay, number) for number in numbers]
    return [one.result() for one in paid]


@shared_task(base=DurableTask)
def in_time(number: str) -> int:
    """The function is on a thread of its own, for its time is bounded and this is not the main thread."""
    with step.parallel() as p:
        paid = p.options(timeout="30s").transaction("pay", pay, number)
    return paid.result()


@shared_task(base=DurableTask)
def too_late(number: str) -> str:
    with step.parallel(max_failed=1) as p:
        hasty = p.options(timeout="0.2s", retry=Retry(max_attempts=1))
        paid = hasty.transaction("pay", pay_too_slowly, number)
    given_up.set()
    return type(paid.exception()).__name__


@shared_task(base=DurableTask)
async def awaiting(number: str) -> int:
    return await aio.transaction("pay", pay, number)
