"""Two days of the shop, executed by the real engine in a moment, and kept as a SQLite file."""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta, timezone
from pathlib import Path

from celery_durable.testing import DurableEnv

from .shop import shop

__all__ = ["keep", "seed", "two_days"]


def seed(path: Path) -> None:
    """Make a database at that path in which the last thing has happened a minute ago."""
    now = datetime.now(timezone.utc)
    with DurableEnv(shop("sqlite://"), now=now - timedelta(days=2)) as env:
        two_days(env, now)
        keep(env, path)


def two_days(env: DurableEnv, now: datetime) -> None:
    """What the shop does until a minute before now."""
    order, trial = env.app.tasks["shop.order"], env.app.tasks["shop.trial"]
    for number in range(40):
        env.emit("customer.created", {"id": f"u{number}"}, key=f"user:u{number}", event_id=f"customer-{number}")
        env.advance("20m")
        if number % 3:
            env.emit("email.verified", {"id": f"u{number}"}, key=f"user:u{number}", event_id=f"verified-{number}")
        if number % 4 == 0:
            env.start(order.s(f"o-{number}", 10.0 * number).set(task_id=f"order-{number}"))
        if number % 5 == 0:
            env.start(trial.s(f"u{number}").set(task_id=f"trial-{number}"))
    for number in (0, 4, 8):
        env.emit("order.approved", {"approved": True}, key=f"o-{number}", event_id=f"approved-{number}")
    env.durable.cancel("order-12", reason="the customer asked for it", by="ada")
    env.durable.pause("order-16", reason="to be looked at first", by="ada")
    env.advance("1m")
    env.durable.replay("order-0", task_id="order-0-again", by="bob")
    env.durable.fork("order-4", "charge", task_id="order-4-fork", by="bob")
    env.advance(now - env.now - timedelta(minutes=3))
    env.start(order.s("o-new", 42.5).set(task_id="order-new"))
    env.advance("2m")


def keep(env: DurableEnv, path: Path) -> None:
    """Write an environment's database to a file."""
    with env.store.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        target = sqlite3.connect(path)
        driver.backup(target)
        target.close()
