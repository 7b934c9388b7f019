"""An app for a real worker and a real console, in processes of their own: a parcel is packed, approved, and sent."""

from __future__ import annotations

import os
import time

from celery import Celery
from pydantic import BaseModel

from celery_durable import DurableTask, step


class Check(BaseModel):
    """What somebody has seen who looked at a parcel."""

    whole: bool
    weight: float


app = Celery("packing", broker=os.environ.get("PACKING_BROKER"), backend=os.environ.get("PACKING_BROKER"))
app.conf.update(
    durable_database_url=os.environ.get("PACKING_DATABASE", "sqlite://"),
    broker_connection_retry_on_startup=True,
    worker_enable_remote_control=False,
)


@app.task(name="packing.parcel", base=DurableTask, shared=False)
def parcel(order: str, items: int = 1) -> str:
    """Pack it, have it looked at, send it."""
    step.run("pack", time.sleep, 0.2)
    check = step.wait_for_event(
        "look", "parcel.checked", key=order, form=Check, prompt=f"Is the parcel of {order} whole?"
    )
    weight = check.payload.weight if check else "?"
    return step.run("send", lambda: f"{order}: {items} items of {weight} kg are on their way")
