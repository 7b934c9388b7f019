"""The shop on a busy day, for whoever looks at the console: workers at work, reports of many steps, deeds, failures."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Literal

from celery import Celery
from pydantic import BaseModel, Field

from celery_durable import DurableTask, Retry, get_logger, on_event, step
from celery_durable.core.duration import SECOND
from celery_durable.store.store import Store
from celery_durable.testing import DurableEnv

from .seeding import keep, two_days
from .shop import shop

__all__ = ["LONG_AGO", "busy_shop", "seed_busy"]

LONG_AGO = timedelta(days=2, hours=15)
_LEASE = 3600 * SECOND

logger = get_logger("shop.reports")


class Release(BaseModel):
    """Whether a report is sent to the shops."""

    release: bool = Field(description="Nobody sees it until it is released.")
    audience: Literal["managers", "everyone"] = "managers"
    remark: str = Field(default="", max_length=300, description="Stands on the first page.")


class PrinterOnFire(Exception):
    pass


def busy_shop(database_url: str, works: Callable[[float], object] | None = None, **settings: Any) -> Celery:
    """The shop's app with two tasks more. ``works`` lets the time pass that a step takes."""
    app = shop(database_url, **settings)
    luck = random.Random(4)

    def taking(seconds: float, value: Any = None) -> Any:
        if works is not None:
            works(seconds * luck.uniform(0.7, 1.4))
        return value

    def count_region(region: int) -> dict[str, Any]:
        if region == 17 and step.current().attempt < 3:
            taking(4)
            raise TimeoutError("warehouse-17.internal did not answer within 4 seconds")
        return taking(1.8, {"region": region, "orders": 40 + region * 7 % 31, "returned": region % 5})

    def render(kind: str) -> str:
        if kind == "xlsx" and step.current().attempt == 1:
            taking(1)
            raise MemoryError("out of memory while a chart was drawn")
        return taking(6, f"s3://reports/monthly.{kind}")

    @app.task(name="shop.monthly_report", base=DurableTask, shared=False, run_timeout="10d")
    def monthly_report(month: str, regions: int = 50) -> dict[str, Any]:
        """Count what was sold in every region, draw it, have it released, send it."""
        logger.info("the report of %s over %s regions", month, regions)
        step.run("open-books", taking, 9, {"month": month, "currency": "EUR"})
        step.set_progress(0, regions, "regions")
        patient = Retry(max_attempts=4, delay="30s", jitter=False)
        counted = step.options(retry=patient).map("region", count_region, list(range(regions)), limit=6)
        step.set_progress(regions, regions, "regions")
        orders = step.run("add-up", lambda: taking(3, sum(region["orders"] for region in counted)))
        with step.parallel() as p:
            files = [p.run(f"render-{kind}", render, kind) for kind in ("pdf", "csv", "xlsx")]
            p.call("fraud", app.tasks["shop.fraud_check"].s(month))
        logger.info("%s orders in %s", orders, month)
        release = step.wait_for_event(
            "release", "report.release", key=month, timeout="3d", form=Release,
            prompt=f"Release the report of {month} to the shops?",
        )  # fmt: skip
        with step.race() as r:
            r.sleep("not-at-night", "4h")
            r.wait_for_event("hurry", "report.hurry", key=month)
        step.run("send", taking, 4)
        return {"files": [file.result() for file in files], "orders": orders, "released": bool(release)}

    @app.task(name="shop.print_labels", base=DurableTask, shared=False, triggers=[on_event("labels.*")])
    def print_labels(event: Any) -> None:
        """Print what is to be stuck on parcels."""

        def print_all(count: int) -> None:
            taking(2)
            raise PrinterOnFire(f"printer 2 is on fire, {count} labels are not printed")

        step.run("layout", taking, 1, {"labels": 12, "paper": "A6"})
        step.options(retry=Retry(max_attempts=3, delay="5s", jitter=False)).run("print", print_all, 12)

    return app


def seed_busy(path: Path) -> None:
    """Make a database of it at that path, in which the last thing has happened a minute ago."""
    now = datetime.now(timezone.utc)
    app = busy_shop("sqlite://", works=lambda seconds: env.store.steady.skip(seconds))
    with DurableEnv(app, now=now - LONG_AGO) as env:
        report = app.tasks["shop.monthly_report"]
        env.start(report.s("2026-09").set(task_id="report-2026-09"))
        env.advance("20m")
        env.emit("report.release", {"release": True, "audience": "everyone"}, key="2026-09", event_id="release-09")
        env.advance("6h")
        env.start(report.s("2026-10").set(task_id="report-2026-10"))
        env.advance("1h")
        env.emit("labels.ready", {"parcels": 12}, key="warehouse-2", event_id="labels-1")
        env.advance(now - timedelta(days=2) - env.now)
        two_days(env, now - timedelta(minutes=2))
        env.emit("labels.ready", {"parcels": 7}, key="warehouse-1", event_id="labels-2")
        for number in range(3):
            env.start(app.tasks["shop.order"].s(f"o-now-{number}", 19.9).set(task_id=f"order-now-{number}"))
        env.advance("2m")
        keep(env, path)
    _take_up(path, "order-now-0", "order-now-1", "order-now-2")


def _take_up(path: Path, *run_ids: str) -> None:
    """Two workers have runs that are due, and one of them sweeps."""
    store = Store(f"sqlite:///{path}")
    with store.link() as link:
        for number, run_id in enumerate(run_ids):
            store.claim(link, run_id, worker=f"celery@shop-{number % 2 + 1}", lease=_LEASE)
        store.take_lease(link, "sweeper", "celery@shop-1", _LEASE)
    store.engine.dispose()
