"""The workflows that the operations are shown by: each the smallest that has what it is about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery, signature

from celery_durable import Concurrency, DurableTask, Event, Retry, on_event, step

from .corpus import Notes, insert, key, work
from .corpus_control import undo

__all__ = ["FIXED", "declare"]

SOON = Retry(max_attempts=3, delay="40s", jitter=False)
ONCE = Retry(max_attempts=1)
FIXED = "fixed"
"""The file that a step fails without."""


def ordinary(number: int) -> int:
    return number + 1


def nothing() -> str:
    return "done"


def one_step() -> Any:
    return step.run("work", work, "work", 1)


def step_fails_first() -> Any:
    def flaky() -> int:
        attempt = step.current().attempt
        Notes.write(f"attempt-{attempt}")
        if attempt < 2:
            raise ConnectionError("not yet")
        return attempt

    return step.options(retry=SOON).run("flaky", flaky)


def books() -> Any:
    return step.transaction("book", insert, "book")


def side_by_side() -> Any:
    with step.parallel() as p:
        parts = [p.run("first", work, "first", 1), p.run("second", work, "second", 2)]
        p.sleep("nap", "40s")
    return [part.result() for part in parts]


def sleeps() -> Any:
    step.run("before", work, "before")
    step.sleep("nap", "40s")
    return step.run("after", work, "after", "awake")


def waits() -> Any:
    event = step.wait_for_event("outside", key=key())
    assert event is not None
    return step.run("after", work, "after", event.payload)


def asks() -> Any:
    event = step.wait_for_event("approval", key=key())
    return event and event.payload


def waits_for_a_while() -> Any:
    event = step.wait_for_event("outside", key=key(), timeout="40s")
    return step.run("after", work, "after", event and event.payload)


def emits() -> Any:
    step.emit("tell", "told", {"n": 1}, key=key())
    return "told"


def calls() -> Any:
    return step.run("after", work, "after", step.call("call", "one_step"))


def calls_an_ordinary_task() -> Any:
    return step.run("after", work, "after", step.call("call", signature("ordinary", (1,))))


def calls_ordinary_tasks() -> Any:
    with step.parallel() as block:
        called = [block.call(f"call-{number}", signature("ordinary", (number,))) for number in range(3)]
    return step.run("after", work, "after", [future.result() for future in called])


def calls_a_waiting_one() -> Any:
    try:
        return step.call("call", "tidies")
    finally:
        step.run("tidy above", work, "tidy-above")


def tidies() -> None:
    try:
        step.wait_for_event("never", key=key())
    finally:
        step.run("tidy", work, "tidy")


def undone() -> None:
    step.run("book", work, "book")
    step.on_rollback("unbook", undo, "unbook")
    step.on_rollback("refund", undo, "refund")
    step.options(retry=ONCE).run("fails", _fail)


def _fail() -> None:
    raise LookupError("no seat")


def fails_until_fixed() -> Any:
    def needs() -> int:
        if not (Notes.folder / FIXED).exists():
            raise LookupError("not there")
        return 7

    step.run("before", work, "before")
    return step.options(retry=ONCE).run("needs", needs)


def run_fails_first() -> Any:
    def flaky() -> int:
        Notes.write("tried")
        if Notes.of(step.current().run_id)["tried"] < 2:
            raise ConnectionError("not yet")
        return 2

    step.run("before", work, "before")
    return step.options(retry=ONCE).run("flaky", flaky)


def begins_again(number: int = 0) -> Any:
    step.run("work", work, f"work-{number}")
    if number < 1:
        step.continue_as_new(number + 1)
    return number


def counts() -> Any:
    return step.state.increment("count")


def locks(ttl: str | None = None) -> Any:
    with step.lock("mine", "the till", ttl=ttl):
        event = step.wait_for_event("outside", key=key())
    return event and event.payload


def limited() -> Any:
    return step.run("work", work, "work", 1)


def welcomes(event: Event) -> Any:
    return step.run("welcome", work, "welcome", event.payload)


_OPTIONS: dict[Callable[..., Any], dict[str, Any]] = {
    run_fails_first: {"autoretry_for": (ConnectionError,), "default_retry_delay": 40, "retry_backoff": False},
    limited: {"concurrency": Concurrency(1)},
    welcomes: {"triggers": [on_event("outside")]},
}
_BODIES: tuple[Callable[..., Any], ...] = (
    nothing, one_step, step_fails_first, books, side_by_side, sleeps, waits, asks, waits_for_a_while, emits,
    calls, calls_an_ordinary_task, calls_ordinary_tasks, calls_a_waiting_one, tidies, undone, fails_until_fixed,
    begins_again, counts, locks, *_OPTIONS,
)  # fmt: skip


def declare(app: Celery) -> None:
    """Give an app these tasks, each by its function's name."""
    for body in _BODIES:
        app.task(body, base=DurableTask, name=body.__name__, shared=False, **_OPTIONS.get(body, {}))
    app.task(ordinary, name="ordinary", shared=False)
