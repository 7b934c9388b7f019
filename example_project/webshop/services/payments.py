"""A payment service of its own, as others run them: charges, refunds, idempotency keys, webhooks.

How it behaves is chosen on its page. It keeps all in memory.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.request import Request, urlopen

from flask import Flask, abort, redirect, render_template, request
from flask.typing import ResponseReturnValue

BEHAVIOURS = {
    "well": "it charges at once",
    "slow": "it charges at once, and takes 8 seconds to say so",
    "down": "it answers 503",
    "declines": "it refuses the card (402)",
    "pending": "it asks the customer's bank, and calls back once you have settled the charge below",
}
SLOW = float(os.environ.get("SHOP_PAYMENTS_SLOW", "8"))
WEBHOOK = os.environ.get("SHOP_PAYMENTS_WEBHOOK", "http://127.0.0.1:8001/hooks/events/payment.settled")
SECRET = os.environ.get("SHOP_WEBHOOK_SECRET", "")

site = Flask(__name__, template_folder="templates", static_folder="../static")
lock = threading.Lock()
state: dict[str, Any] = {"behaviour": "well"}
charges: list[dict[str, Any]] = []
answers: dict[str, tuple[Any, Any]] = {}
"""What was asked and answered, by idempotency key."""
requests: list[str] = []
"""The idempotency key of each request for a charge, in their order."""


@site.post("/charges")
def charge() -> ResponseReturnValue:
    asked: Any = request.get_json()
    requests.append(request.headers["Idempotency-Key"])
    if state["behaviour"] == "down":
        return "out of order", 503
    if state["behaviour"] == "declines":
        return "the card is refused", 402
    answer = once(asked, charged)
    if state["behaviour"] == "slow":
        time.sleep(SLOW)
    return answer


@site.post("/refunds")
def refund() -> ResponseReturnValue:
    if state["behaviour"] == "down":
        return "out of order", 503
    return once(request.get_json(), refunded)


def once(asked: Any, act: Callable[[Any], Any]) -> ResponseReturnValue:
    """Act, or answer what was answered when this key was seen before."""
    key = request.headers["Idempotency-Key"]
    with lock:
        if key not in answers:
            answers[key] = asked, act(asked)
        first_asked, answer = answers[key]
    if first_asked != asked:
        return "this idempotency key was used for something else", 409
    return answer


def charged(asked: Any) -> Any:
    charge_state = "pending" if state["behaviour"] == "pending" else "paid"
    charges.append({"id": f"ch_{secrets.token_hex(4)}", "state": charge_state, **asked})
    return {"id": charges[-1]["id"], "state": charge_state}


def refunded(asked: Any) -> Any:
    found = [one for one in charges if one["order"] == asked["order"] and one["state"] != "refunded"]
    for one in found:
        one["state"] = "refunded"
    return {"refunded": len(found)}


@site.post("/charges/<charge_id>/settle")
def settle(charge_id: str) -> ResponseReturnValue:
    """The bank has paid: tell the shop, with a signature, under an id that makes a second call count for nothing."""
    found = next((one for one in charges if one["id"] == charge_id), None) or abort(404)
    if found["state"] == "pending":
        found["state"] = "paid"
    body = json.dumps({"payload": found, "key": found["order"], "event_id": f"payments:{charge_id}"}).encode()
    now = str(int(time.time()))
    signature = hmac.new(SECRET.encode(), f"{now}.payment.settled.".encode() + body, hashlib.sha256).hexdigest()
    headers = {"Durable-Timestamp": now, "Durable-Signature": f"sha256={signature}", "Content-Type": "application/json"}
    urlopen(Request(WEBHOOK, body, headers), timeout=10).close()
    return redirect("/")


@site.post("/behaviour")
def behave() -> ResponseReturnValue:
    state["behaviour"] = request.form["behaviour"] if request.form.get("behaviour") in BEHAVIOURS else abort(400)
    return redirect("/")


@site.get("/charges")
def everything() -> ResponseReturnValue:
    return {"charges": charges, "requests": requests}


@site.get("/")
def page() -> ResponseReturnValue:
    return render_template("payments.html", behaviours=BEHAVIOURS, current=state["behaviour"], charges=charges[::-1])
