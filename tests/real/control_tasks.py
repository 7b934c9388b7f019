"""Tasks that are paused, cancelled, retried, copied, held back. What they do is counted under a label of the test's."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from celery import Task
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from celery_durable import Concurrency, DurableTask, Retry, RunCancelled, get_logger, step
from celery_durable.signals import run_finished, run_started, step_finished
from celery_durable.worker.runtime import runtime_of
from tests.real.app import app
from tests.real.effects import effect, effects

LONGEST = 20.0
GO = "go"
ONCE = Retry(max_attempts=1)
VARIABLE = "REAL_CODE"
"""The environment variable that says which version of :func:`changes` a worker has."""
GENERATIONS = 20

log = get_logger(__name__)


def go(label: str) -> None:
    effect(label, GO)


def go_everybody() -> None:
    """Nobody is held any more by a test that is over."""
    done = effects()
    for label in {one.run for one in done} - {one.run for one in done if one.name == GO}:
        go(label)


def hold(label: str, begun: str = "begun", ended: str = "ended") -> str:
    """Wait until the test says go."""
    effect(label, begun)
    began = time.monotonic()
    while not effects(label, GO) and time.monotonic() - began < LONGEST:
        time.sleep(0.02)
    return effect(label, ended)


def takes(label: str, name: str, seconds: float) -> str:
    effect(label, f"{name}:in")
    time.sleep(seconds)
    effect(label, f"{name}:out")
    return name


def die_once(label: str, name: str = "died") -> None:
    """The worker's process is killed in here, the first time."""
    if not effects(label, name):
        effect(label, name)
        os.kill(os.getpid(), signal.SIGKILL)


def fails() -> None:
    raise ConnectionError("not yet")


# ------------------------------------------------------------------- cancelling


@app.task
def note(value: Any, label: str, name: str = "callback") -> Any:
    effect(label, name)
    return value


@app.task
def note_error(request: Any, error: Any, traceback: Any, label: str) -> None:
    effect(label, "errback")


class Unrecorded(DurableTask):
    """Its first start can't be recorded: the database is away."""

    abstract = True

    def apply_async(self, args: Any = None, *more: Any, **options: Any) -> Any:
        label = args[-1]
        if not effects(label, "unrecorded"):
            effect(label, "unrecorded")
            raise OperationalError("INSERT", {}, OSError("away"))
        return super().apply_async(args, *more, **options)


@app.task(base=Unrecorded)
def note_durably(value: Any, label: str) -> None:
    step.run("note", effect, label, "callback")


class StartedLater(DurableTask):
    """The database takes no connection when it is to be started, for a moment."""

    abstract = True

    def apply_async(self, args: Any = None, *more: Any, **options: Any) -> Any:
        engine, label = runtime_of(self.app).store.engine, args[-1]

        def refuse(*_: Any) -> None:
            if len(effects(label, "refused")) < 3:
                effect(label, "refused")
                raise OperationalError("connect", {}, OSError("away"))

        event.listen(engine, "do_connect", refuse)
        engine.dispose()
        try:
            return super().apply_async(args, *more, **options)
        finally:
            event.remove(engine, "do_connect", refuse)


@app.task(base=StartedLater)
def summed(values: list[Any], label: str) -> list[Any]:
    return step.run("note", effected, values, label, "body")


def effected(values: list[Any], label: str, name: str) -> list[Any]:
    effect(label, name)
    return values


@app.task(base=DurableTask)
def asleep() -> None:
    step.sleep("long", "1h")


@app.task(base=DurableTask)
def parks(label: str, how: str) -> str:
    """Stops at one place, has something to undo, and cleans up when it is cancelled."""
    step.run("begin", effect, label, "begin")
    step.on_rollback("undo", effect, label, "undo")
    try:
        if how == "sleep":
            step.sleep("long", "1h")
        elif how == "event":
            step.wait_for_event("never", key=label)
        elif how == "call":
            step.call("child", asleep.s())
        elif how == "backoff":
            step.options(retry=Retry(delay="1h", jitter=False)).run("flaky", fails)
        elif how == "step":
            step.run("held", hold, label)
            step.run("later", effect, label, "later")
        elif how == "clean":
            step.sleep("long", "1h")
    except RunCancelled:
        step.run("clean", hold if how == "clean" else effect, label, "clean")
        raise
    return "done"


@app.task(base=DurableTask)
def tree(label: str, levels: int, width: int) -> None:
    step.on_rollback("undo", effect, label, "undo")
    if levels == 1:
        step.sleep("long", "1h")
        return
    with step.parallel() as block:
        for number in range(width):
            block.call(f"child-{number}", tree.s(label, levels - 1, width))


# ------------------------------------------------------------------- going on


@app.task(base=DurableTask)
def waits(label: str) -> Any:
    step.run("before", effect, label, "before")
    event = step.wait_for_event("approved", key=label)
    step.run("after", effect, label, "after")
    return event and event.payload


@app.task(base=DurableTask)
def held(label: str) -> str:
    step.run("before", effect, label, "before")
    step.run("held", hold, label)
    return step.run("after", effect, label, "after")


@app.task
def held_and_ordinary(label: str) -> tuple[str, str]:
    return hold(label), label


@app.task(base=DurableTask)
def calls_held(label: str) -> list[str]:
    return step.call("held", held_and_ordinary.s(label))


@app.task(base=DurableTask)
def held_and_fails(label: str) -> None:
    step.run("held", hold, label)
    step.options(retry=ONCE).run("fails", fails)


def needs_fix(label: str) -> str:
    effect(label, "tried")
    if not effects(label, "fixed"):
        raise ConnectionError("not fixed yet")
    return label


@app.task(base=DurableTask)
def fails_until_fixed(label: str) -> str:
    step.run("first", effect, label, "first")
    return step.options(retry=ONCE).run("second", needs_fix, label)


@app.task(base=DurableTask)
def three_steps(label: str, name: str = "a") -> list[str]:
    return [step.run(one, effect, label, f"{name}-{one}") for one in ("first", "second", "third")]


# ------------------------------------------------------------------- time


@app.task(base=DurableTask, run_timeout="1s")
def overdue(label: str, how: str) -> None:
    step.on_rollback("undo", effect, label, "undo")
    try:
        if how == "parked":
            step.sleep("long", "1h")
        elif how == "called":
            step.call("child", parks.s(f"{label}-child", "sleep"))
        for number in range(1000):
            step.run(f"work-{number}", takes, label, "work", 0.05)
    except RunCancelled:
        step.run("clean", effect, label, "clean")


# ------------------------------------------------------------------- few at a time


@app.task(base=DurableTask, concurrency=Concurrency(2, key="key"))
def shares(key: str, name: str, seconds: float = 0.05, naps: bool = False) -> str:
    """Two of a key at once. One that naps comes back for a second share."""
    step.run("inside", takes, key, name, seconds)
    if naps:
        step.sleep("nap", 0.3)
        step.run("again", takes, key, f"{name}-again", seconds)
    return name


@app.task(base=DurableTask, concurrency=Concurrency(2, key=lambda key, *_, **__: f"held {key}"))
def shares_held(key: str, name: str, parks_first: bool = False) -> str:
    step.on_rollback("undo", effect, key, f"{name}:undo")
    if parks_first:
        step.wait_for_event("go on", key=name)
    return step.run("held", hold, key, f"{name}:in", f"{name}:out")


@app.task(base=DurableTask, concurrency=Concurrency(2))
def shares_and_dies(label: str, name: str, dies: bool) -> str:
    if dies:
        step.run("dies", die_once, label, f"{name}:died")
    step.run("inside", takes, label, name, 0.1)
    step.sleep("nap", 0.2)
    return name


@app.task(base=DurableTask)
def locks(label: str, name: str) -> str:
    with step.lock("exclusive", f"lock-{label}"):
        step.run("inside", hold, label, f"{name}:in", f"{name}:out")
    return name


@app.task(base=DurableTask)
def counts(label: str, times: int) -> int:
    done = [step.state.increment(label) for _ in range(times)]
    return int(done[-1])


# ------------------------------------------------------------------- going on for ever


@app.task(base=DurableTask)
def generations(label: str, number: int = 0) -> int:
    step.run("count", effect, label, f"generation-{number}")
    if number == GENERATIONS // 2:
        step.run("dies", die_once, label)
    if number == GENERATIONS // 4:
        step.sleep("nap", 0.2)
    if number < GENERATIONS:
        step.continue_as_new(label, number + 1)
    return number


@app.task(base=DurableTask)
def rolls_back(label: str) -> None:
    """Its worker is killed in the second of three undos."""
    step.on_rollback("undo-1", effect, label, "undo-1")
    step.on_rollback("undo-2", die_once, label, "undo-2")
    step.on_rollback("undo-3", effect, label, "undo-3")
    effect(label, "pass")
    step.options(retry=ONCE).run("fails", fails)


# ------------------------------------------------------------------- what is said of it


@app.task(base=DurableTask)
def tells(label: str) -> str:
    log.info("begins with %s", label)
    step.set_progress(1, 2, "half")
    step.wait_for_event("approved", key=label)
    log.info("goes on, with the password=%s", "hunter2")
    step.run("said", log.warning, "inside")
    step.set_progress(2, 2)
    return label


@run_started.connect(sender=tells)
@run_finished.connect(sender=tells)
@step_finished.connect(sender=tells)
def on_signal(signal: Any = None, run_id: str = "", **facts: Any) -> None:
    effect(run_id, ":".join(str(part) for part in (signal.name, facts.get("step_id"), facts.get("status"))))


# ------------------------------------------------------------------- code that changes


@app.task(base=DurableTask, bind=True)
def changes(self: Task, label: str) -> str:
    """``v1`` waits for an approval; ``v2`` has a step in its place; ``v3`` has both, by ``step.patched``."""
    version = os.environ.get(VARIABLE, "v1")
    step.run("first", effect, label, "first")
    if version == "v2" or (version == "v3" and step.patched("no approval")):
        step.run("approval", effect, label, "second")
    else:
        step.wait_for_event("approval", "approved", key=label)
    return step.run("third", effect, label, f"third-{version}")
