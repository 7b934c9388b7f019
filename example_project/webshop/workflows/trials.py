"""Each new customer gets a free box to try. Three days later we ask how it was."""

from __future__ import annotations

from django.conf import settings

from celery_durable import DurableTask, Event, on_event, step

from .. import mails
from ..celery import app


@app.task(base=DurableTask, name="shop.follow_up_trial", triggers=[on_event("customer.joined")])
def follow_up_trial(event: Event) -> str:
    customer = event.payload["customer"]
    step.sleep("three-days", 3 * settings.DAY)  # a row in the database: no worker, no message, no memory
    step.run("ask", mails.send_follow_up, customer)
    return "asked"
