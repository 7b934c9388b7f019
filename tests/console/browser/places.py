"""Every page of the busy shop's console, by what it is."""

from __future__ import annotations

from celery_durable.console.segments import to_segment

__all__ = ["PLACES", "REFUSED"]

_REPORT = "/run/report-2026-10"

PLACES = {
    "runs": "/",
    "runs, filtered": "/?status=failed&status=suspended&search=o-&since=30d&waiting_on=order",
    "runs, none": "/?search=nowhere",
    "many, asked": "/runs/cancel?status=suspended",
    "run, waiting": _REPORT,
    "run, running": "/run/order-now-0",
    "run, cancelled": "/run/order-12",
    "run, paused": "/run/order-16",
    "run, as a graph": "/run/order-4?view=flow",
    "run, a graph of many": f"{_REPORT}?view=flow",
    "run, in time": f"{_REPORT}?view=timeline",
    "step": f"{_REPORT}/step/{to_segment('region[17]')}",
    "cancel": "/run/order-36/cancel",
    "fork, from which": "/run/order-8/fork",
    "fork": "/run/order-8/fork?from=ship",
    "replay": "/run/order-8/replay",
    "answer": f"{_REPORT}/answer",
    "events": "/events",
    "event": "/event/customer-36",
    "emit": "/events/emit",
    "tasks": "/tasks",
    "task": "/task/shop.onboard?span=7d",
    "start": "/task/shop.order/start",
    "workers": "/workers",
    "deeds": "/deeds",
}

REFUSED = {
    "no such page": "/nowhere",
    "no such run": "/run/nobody",
    "can't be done": "/run/order-8/cancel",
}
