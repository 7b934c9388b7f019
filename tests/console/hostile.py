"""A shop that somebody has filled with what would run in a browser, if a page showed it as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celery import Celery

from celery_durable import DurableTask, Retry, get_logger, on_event, step
from celery_durable.testing import DurableEnv
from tests.alone import alone

from .seeding import keep

__all__ = ["BITE", "hostile_shop", "seed_hostile"]

BITE = (
    '"><img src=x onerror=bitten=1><script>bitten=1</script><a href="javascript:bitten=1">\'{{7*7}}</title></textarea>'
)
"""Out of an attribute, into an element, an address, a template, a title and a field."""

TASK = f"{BITE}.task"
RUN, WAITING, FAILED, CANCELLED = (f"{BITE} {name}" for name in ("run", "waiting", "failed", "cancelled"))

logger = get_logger(f"logger {BITE}")


class Bitten(Exception):
    pass


def fails() -> None:
    raise Bitten(f"an error {BITE}")


def hostile_shop(database_url: str, **settings: Any) -> Celery:
    """The shop's app. Its one task does what its input says."""
    app = alone("hostile")
    app.conf.update(durable_database_url=database_url, durable_auto_migrate=True, durable_store_logs=True, **settings)

    def bitten(what: Any = None, **more: Any) -> Any:
        logger.warning("a line %s", BITE)
        step.set_progress(BITE, BITE, f"note {BITE}")
        step.run(f"{BITE} first", lambda: {BITE: BITE})
        with step.parallel() as p:
            p.run(f"{BITE} left", lambda: BITE)
            p.run(f"{BITE} right", lambda: BITE)
        step.emit(f"{BITE} emits", f"told {BITE}", {BITE: BITE}, key=BITE)
        if what == "fail":
            step.options(retry=Retry(max_attempts=2, delay="1s", jitter=False)).run(f"{BITE} fails", fails)
        if what == "wait":
            step.wait_for_event(f"{BITE} waits", f"event {BITE}", key=BITE, prompt=f"prompt {BITE}", match={BITE: BITE})
        return BITE

    bitten.__doc__ = f"What it does: {BITE}"
    trigger = on_event(f"trigger {BITE}", when={BITE: BITE})
    app.task(name=TASK, base=DurableTask, shared=False, triggers=[trigger])(bitten)
    return app


def seed_hostile(path: Path) -> None:
    """Make a database of it at that path."""
    app = hostile_shop("sqlite://")
    task = app.tasks[TASK]
    with DurableEnv(app) as env:
        for run_id, what in ((RUN, BITE), (WAITING, "wait"), (FAILED, "fail"), (CANCELLED, "wait")):
            env.start(task.s(what, **{BITE: BITE}).set(task_id=run_id))
        env.advance("2s")
        env.emit(f"trigger {BITE}", {BITE: BITE}, key=BITE, event_id=f"event {BITE}")
        env.durable.cancel(CANCELLED, reason=f"reason {BITE}", by=f"somebody {BITE}")
        env.durable.pause(WAITING, reason=f"reason {BITE}", by=f"somebody {BITE}")
        keep(env, path)
