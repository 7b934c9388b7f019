"""The payment service's client. A request has its step's idempotency key: however often it is sent, it counts once."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from django.conf import settings
from pydantic import BaseModel

from celery_durable import NonRetryable, step


class Charge(BaseModel):
    id: str
    state: Literal["paid", "pending"]


def charge(order_id: str, amount: Decimal) -> Charge:
    return Charge.model_validate(post("/charges", order=order_id, amount=str(amount)))


def refund(order_id: str) -> int:
    """Pay back whatever was charged for the order. Says how many charges that were."""
    return int(post("/refunds", order=order_id)["refunded"])


def post(path: str, **body: str) -> Any:
    headers = {"Content-Type": "application/json", "Idempotency-Key": step.current().idempotency_key}
    request = Request(settings.PAYMENTS_URL + path, json.dumps(body).encode(), headers)
    try:
        with urlopen(request, timeout=30) as answer:
            return json.load(answer)
    except HTTPError as error:
        with error:
            said = error.read().decode(errors="replace").strip()
        if error.code == 402:
            raise NonRetryable(said) from error  # the card is refused, and will be again
        raise ConnectionError(f"the payment service says {error.code}: {said}") from error
