"""Changes of code under runs: what ``durable check`` has to find, and what it has to leave in peace.

Each change is a body as it was, one as it is now, and what is to be said of a run of the first. The run is executed by
the first until it waits for the event ``end``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from celery_durable import Retry, get_logger, step
from tests.kill.corpus import work

__all__ = ["ALARMING", "HARMLESS", "Change"]

logger = get_logger(__name__)
ONCE = Retry(max_attempts=1)


@dataclass(frozen=True)
class Change:
    """What was deployed, and what is."""

    name: str
    before: Callable[..., Any]
    after: Callable[..., Any] | None
    why: str = ""
    """What is to be said of it, as a pattern."""
    durable: bool = True
    conf: dict[str, Any] = field(default_factory=dict)
    args: tuple[Any, ...] = ()


ALARMING: list[Change] = []
HARMLESS: list[Change] = []


def run(*names: str) -> list[Any]:
    return [step.run(name, work, name) for name in names]


def end() -> None:
    step.wait_for_event("end", key="nobody's")


def then_end(body: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(body)
    def ending(*args: Any) -> None:
        body(*args)
        end()

    return ending


def alarming(name: str, before: Any, after: Any, why: str, **values: Any) -> None:
    ALARMING.append(Change(name, then_end(before), after and then_end(after), why, **values))


def harmless(name: str, before: Any, after: Any, **values: Any) -> None:
    HARMLESS.append(Change(name, then_end(before), then_end(after), **values))


def guarded(first: bool) -> Any:
    run("one")
    return run("new") if step.patched("change") else run("old") if first else None


def deprecated() -> Any:
    run("one")
    step.deprecate_patch("change")
    return run("new")


def in_parallel(*names: str) -> None:
    with step.parallel() as p:
        for name in names:
            p.run(name, work, name)


class Number(BaseModel):
    value: int


def as_number(*_: Any) -> Number:
    return Number(value=1)


def new_number(*_: Any) -> Other:
    return Other(value=1, unit="m")


class Other(BaseModel):
    value: int
    unit: str


class Early(Exception):
    pass


def left_early() -> None:
    run("one")
    raise Early("not today")


def run_and_sleep() -> None:
    run("one")
    step.sleep("nap", "1h")
    run("two")


def sleep_and_run() -> None:
    step.sleep("one", "1h")
    run("two")


def run_saying_more() -> None:
    step.set_progress(1)
    logger.warning("one comes")
    run("one")
    step.set_progress(2)


def with_an_undo() -> None:
    run("one")
    step.on_rollback("undo", work, "undo")


def going_on() -> None:
    run("one")
    end()
    run("two", "three")


def failing_after() -> None:
    run("one")
    end()
    raise Early("but late enough")


alarming("renamed", lambda: run("one", "two"), lambda: run("one", "deux"), r"'deux'.*new.*before.*'two' \(run, compl")
alarming("the first one renamed", lambda: run("one", "two"), lambda: run("uno", "two"), r"'uno'.*'one' \(run")
alarming("removed", lambda: run("one", "two", "three"), lambda: run("one", "three"), r"'two' \(run")
alarming("the last one removed", lambda: run("one", "two"), lambda: run("one"), r"'two' \(run")
alarming("a new one before", lambda: run("one", "two"), lambda: run("zero", "one", "two"), r"'zero', which is new")
alarming("a new one between", lambda: run("one", "two"), lambda: run("one", "and", "two"), r"'and'.*'two' \(run")
alarming("a new sleep between", lambda: run("one", "two"), run_and_sleep, r"'nap'.*'two' \(run")
alarming("another kind", lambda: run("one", "two"), sleep_and_run, r"'one' of run.*a 'run' step.*code: a 'sleep' step")
alarming("another kind of wait", lambda: step.sleep("nap", 0), lambda: step.wait_for_event("nap"), r"a 'sleep' step")
STRICT = {"durable_strict_inputs": True}
GIVEN = r"given \[\[\"one\"\], \{\}\].*given \[\[\"one\", 2\]"
alarming("another input", lambda: run("one"), lambda: step.run("one", work, "one", 2), GIVEN, conf=STRICT)
alarming("no task any more", lambda: run("one"), None, r"'t' is not registered")
alarming("not durable any more", lambda: run("one"), lambda: run("one"), r"base=DurableTask is missing", durable=False)
alarming("fewer arguments", lambda one, two: run("one"), lambda one: run("one"), r"TypeError.*arguments", args=(1, 2))
alarming("a result of another form", lambda: step.run("one", as_number), lambda: step.run("one", new_number),
         r"'one'.*unit")  # fmt: skip
alarming("a guard that is taken away", lambda: run("one", "old"), lambda: run("one", "new"), r"'old' \(run")
alarming("a guard that came too late", lambda: run("one", "old"), lambda: deprecated(), r"'change'.*old side")
alarming("the new side is taken back", lambda: guarded(True), lambda: run("one", "old"), r"'old'.*'new' \(run")
alarming("returns early", lambda: run("one", "two"), lambda: run("one"), r"'two' \(run")
alarming("raises early", lambda: run("one", "two"), left_early, r"raises Early: not today.*'two' \(run")
alarming("a branch renamed", lambda: in_parallel("one", "two"), lambda: in_parallel("one", "deux"), r"'two' \(run")
alarming("a branch less", lambda: in_parallel("one", "two"), lambda: in_parallel("one"), r"'two' \(run")
alarming("one used twice", lambda: run("one", "two"), lambda: run("one", "one"), r"DuplicateStep|'two'")
ALARMING.append(
    Change("ends before", then_end(lambda: run("one", "two")), lambda: run("one")[0], r"body returns.*'two'")
)

harmless("nothing", lambda: run("one", "two"), lambda: run("one", "two"))
harmless("a new side", lambda: run("one", "old"), lambda: guarded(True))
harmless("a new side, and one that was there", lambda: guarded(True), lambda: [guarded(True), "changed"])
harmless("the guard is not needed any more", lambda: guarded(True), lambda: deprecated())
harmless("a guard that adds", lambda: run("one"), lambda: [run("one"), step.patched("x") and run("more")])
harmless("says more", lambda: run("one"), run_saying_more)
harmless("another function", lambda: run("one"), lambda: step.run("one", lambda name: name * 2, "one"))
harmless("another input, which is not strict", lambda: run("one"), lambda: step.run("one", work, "one", 2))
harmless("a branch that was never reached", lambda: run("one") if step.run("not", work, "not") else run("two"),
         lambda: [step.run("not", work, "not"), run("two")])  # fmt: skip
harmless("an undo", lambda: run("one"), with_an_undo)
harmless("other retries", lambda: run("one"), lambda: step.options(retry=ONCE, timeout="1s").run("one", work, "one"))
harmless("a wider result", lambda: step.run("one", new_number), lambda: step.run("one", as_number))
harmless("one more argument that has a default", lambda one: run("one"), lambda one, two=2: run("one"), args=(1,))
HARMLESS += [
    Change("new ones at the end", then_end(lambda: run("one")), going_on),
    Change("it fails after that", then_end(lambda: run("one")), failing_after),
]
