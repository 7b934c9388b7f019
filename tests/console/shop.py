"""A shop whose workflows have all that the console shows: blocks, calls, retries, waits with a form, undos, errors."""

from __future__ import annotations

from typing import Any, Literal

from celery import Celery
from pydantic import BaseModel, Field

from celery_durable import Concurrency, DurableTask, Event, Retry, get_logger, on_event, step
from tests.alone import alone

logger = get_logger(__name__)


class Approval(BaseModel):
    """What a person decides about an order."""

    approved: bool
    carrier: Literal["post", "courier"] = "post"
    note: str = Field(default="", max_length=200)


class NoSuchCustomer(Exception):
    pass


def charge(order_id: str, amount: float) -> dict[str, Any]:
    if step.current().attempt < 3:
        raise ConnectionError("payment service: 503 Service Unavailable")
    return {"transaction": f"tx-{order_id}", "amount": amount}


def unlock(user: str) -> None:
    if user.endswith("7"):
        raise NoSuchCustomer(f"no account of {user} <script>alert('x')</script>")


def shop(database_url: str, **settings: Any) -> Celery:
    """The shop's app on a database of its own."""
    app = alone("shop")
    app.conf.update(durable_database_url=database_url, durable_auto_migrate=True, durable_store_logs=True, **settings)

    @app.task(shared=False, name="shop.fraud_check", base=DurableTask)
    def fraud_check(order_id: str) -> float:
        """How likely it is that an order is not paid."""
        step.run("history", lambda: {"orders": 7, "returned": 1})
        return 0.13

    @app.task(shared=False, name="shop.order", base=DurableTask, run_timeout="30d")
    def order(order_id: str, amount: float = 99.9, express: bool = False) -> dict[str, Any]:
        """Validate, charge, have it approved, ship."""
        logger.info("order %s over %s EUR", order_id, amount)
        step.run("validate", lambda: {"valid": True, "items": 3})
        with step.parallel() as p:
            p.run("reserve-stock", lambda: ["sku-1", "sku-2"])
            p.call("fraud", fraud_check.s(order_id))
            p.sleep("cool-down", "2m")
            with p.race() as r:
                r.wait_for_event("fast-lane", key=order_id)
                r.sleep("not-fast", "90s")
        step.on_rollback("refund", lambda: {"refunded": amount})
        patient = Retry(max_attempts=4, delay="20s", jitter=False)
        step.options(retry=patient).run("charge", charge, order_id, amount)
        approval = step.wait_for_event(
            "approve", "order.approved", key=order_id, timeout="2d", form=Approval,
            prompt=f"Ship order {order_id} for {amount} EUR?",
        )  # fmt: skip
        step.set_progress(3, 4, "shipping")
        parcels = step.map("parcels", "parcel {}".format, [1, 2, 3])
        return step.run("ship", lambda: {"tracking": f"T-{order_id}", "parcels": parcels, "approved": bool(approval)})

    @app.task(shared=False, name="shop.onboard", base=DurableTask, triggers=[on_event("customer.created")])
    def onboard(event: Event) -> dict[str, Any]:
        """Create an account, and unlock it once its mail address is confirmed."""
        user = event.payload["id"]
        step.run("create-user", lambda: {"id": user, "email": f"{user}@example.com"})
        step.run("send-mail", lambda: None)
        if step.wait_for_event("email.verified", key=f"user:{user}", timeout="24h") is None:
            return {"onboarded": False}
        step.options(retry=Retry(max_attempts=1)).run("unlock", unlock, user)
        return {"onboarded": True}

    @app.task(shared=False, name="shop.trial", base=DurableTask, concurrency=Concurrency(5))
    def trial(user: str) -> None:
        """Three days later, ask how it goes."""
        step.sleep("three-days", "3d")
        step.run("ask", lambda: f"mail to {user}")

    return app
