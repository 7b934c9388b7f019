"""Tasks that call others, and tasks that are called. What they do is counted under a label that the test gives."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from celery import Task, chain, chord, group
from celery.exceptions import Ignore, Reject
from pydantic import BaseModel

from celery_durable import DurableTask, Retry, step
from celery_durable.aio import step as astep
from celery_durable.worker import running
from tests.real.app import app
from tests.real.effects import effect, effects

LONGEST = 60.0
GO = "go"


class Receipt(BaseModel):
    order: str
    amount: int


# ------------------------------------------------------------------- what is called


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task
def total(values: list[int]) -> int:
    return sum(values)


@app.task
def nothing() -> None: ...


@app.task(base=DurableTask)
def double(value: int) -> int:
    step.sleep("nap", 0.1)
    return step.run("double", lambda: value * 2)


@app.task(base=DurableTask)
def pays(order: str, amount: int) -> Receipt:
    return Receipt(order=order, amount=amount)


@app.task(pydantic=True)
def pays_plainly(order: str, amount: int) -> Receipt:
    return Receipt(order=order, amount=amount)


@app.task
def amount_of(receipt: dict[str, Any]) -> int:
    return int(receipt["amount"])


@app.task
def told(**kwargs: Any) -> dict[str, Any]:
    """What it was given."""
    return kwargs


@app.task
def fails(message: str) -> None:
    raise ValueError(message)


@app.task
def ignores() -> None:
    raise Ignore("nothing to do")


@app.task
def rejects() -> None:
    raise Reject("not for me", requeue=False)


@app.task(bind=True)
def replaces_itself(self: Task, a: int) -> Any:
    return self.replace(add.s(a, 10))


@app.task(base=DurableTask)
def fails_durably(message: str) -> None:
    step.sleep("nap", 0.1)
    raise KeyError(message)


@app.task(bind=True)
def where(self: Task, label: str) -> str:
    effect(label, "done")
    return str(self.request.hostname)


@app.task(base=DurableTask, bind=True)
def where_durably(self: Task, label: str) -> str:
    step.sleep("nap", 0.1)
    return step.run("where", lambda: str(self.request.hostname))


@app.task
def fails_twice(label: str) -> int:
    effect(label, "tried")
    tries = len(effects(label, "tried"))
    if tries < 3:
        raise ConnectionError(f"try {tries}")
    return tries


def hold(label: str) -> None:
    """Wait until the test says go."""
    effect(label, "begun")
    began = time.monotonic()
    while not effects(label, GO) and time.monotonic() - began < LONGEST:
        time.sleep(0.02)
    effect(label, "ended")


@app.task
def held(label: str) -> str:
    hold(label)
    return label


@app.task(base=DurableTask)
def held_durably(label: str) -> str:
    step.run("hold", hold, label)
    return label


@app.task
def takes(label: str, seconds: float) -> str:
    effect(label, "begun")
    time.sleep(seconds)
    effect(label, "ended")
    return label


@app.task(base=DurableTask)
def asleep_in_call(label: str) -> None:
    try:
        step.sleep("long", "1h")
    finally:
        step.run("clean", effect, label, "clean-asleep")


# ------------------------------------------------------------------- what may be called

GIVEN: dict[str, tuple[Callable[[], Any], Any]] = {
    "durable": (lambda: double.s(4), 8),
    "ordinary": (lambda: add.s(1, 2), 3),
    "one that replaces itself": (lambda: replaces_itself.s(4), 14),
    "a name": (lambda: nothing.name, None),
    "a signature of a name": (lambda: app.signature(add.name, args=(5, 6)), 11),
    "a durable one by name": (lambda: app.signature(double.name, kwargs={"value": 6}), 12),
    "chain": (lambda: chain(add.s(1, 2), add.s(3), double.s()), 12),
    "chain of one": (lambda: chain(add.s(1, 2)), 3),
    "group": (lambda: group(add.s(i, i) for i in range(3)), [0, 2, 4]),
    "group of none": (lambda: group([]), []),
    "chord": (lambda: chord([add.s(1, 1), double.s(2)], total.s()), 6),
    "immutable in a chain": (lambda: chain(add.s(1, 2), add.si(10, 20), double.si(4)), 8),
    "immutable in a group": (lambda: chain(add.s(1, 2), group(add.s(1), add.si(0, 1)), total.s()), 5),
    "immutable body": (lambda: chord([add.s(1, 1), add.s(2, 2)], add.si(7, 8)), 15),
    "chain with a group": (lambda: chain(add.s(1, 1), group(add.s(1), double.s()), total.s()), 7),
    "chain with a chord": (lambda: chain(add.s(1, 1), chord([add.s(1), add.s(2)], total.s()), add.s(100)), 107),
    "chord of chains": (
        lambda: chord([chain(add.s(1, 1), add.s(1)), chain(add.s(2, 2), double.s())], chain(total.s(), add.s(1))),
        12,
    ),
    "groups of groups": (lambda: group(group(add.s(1, 1), add.s(2, 2)), add.s(3, 3)), [[2, 4], 6]),
    "chord in a chord": (lambda: chord([chord([add.s(1, 1), add.s(2, 2)], total.s()), add.s(3, 3)], total.s()), 12),
    "chunks": (lambda: add.chunks([(1, 1), (2, 2), (3, 3)], 2), [[2, 4], [6]]),
    "starmap": (lambda: add.starmap([(1, 1), (2, 2)]), [2, 4]),
    "map in a chain": (lambda: chain(total.map([[1, 2], [3]]), total.s()), 6),
    "a model in a chain": (lambda: chain(pays.s("o1", 5), amount_of.s()), 5),
    "models in a group": (
        lambda: group(pays.s("o1", 5), pays_plainly.s("o2", 6)),
        [{"order": "o1", "amount": 5}, {"order": "o2", "amount": 6}],
    ),
    "names that Celery uses": (
        lambda: chain(told.si(task_id="t", parent_id=7, group_id="g", chord=1)),
        {"task_id": "t", "parent_id": 7, "group_id": "g", "chord": 1},
    ),
}


@app.task(base=DurableTask)
def calls(name: str) -> Any:
    return step.call("it", GIVEN[name][0]())


FAILING: dict[str, Callable[[], Any]] = {
    "ordinary": lambda: fails.s("plainly"),
    "durable": lambda: fails_durably.s("durably"),
    "ignored": lambda: ignores.s(),
    "rejected": lambda: rejects.s(),
    "chain": lambda: chain(add.s(1, 1), fails.si("in a chain"), add.s(1)),
    "group": lambda: group(add.s(1, 1), fails.s("in a group")),
    "chord": lambda: chord([add.s(1, 1), fails_durably.s("in a chord")], total.s()),
    "body": lambda: chord([add.s(1, 1), add.s(1, 1)], fails.si("in a body")),
    "unknown": lambda: app.signature("tests.real.nowhere.to_be_found", args=(1,)),
    "unknown in a chain": lambda: chain(add.s(1, 1), app.signature("tests.real.nowhere.to_be_found")),
}


@app.task(base=DurableTask)
def calls_failing(name: str) -> dict[str, Any]:
    """What the body catches, and that it goes on."""
    try:
        step.call("it", FAILING[name]())
    except Exception as error:
        caught = {"type": type(error).__name__, "text": str(error), "notes": list(getattr(error, "__notes__", []))}
    step.sleep("nap", 0.1)
    return caught


# ------------------------------------------------------------------- who calls


@app.task(base=DurableTask)
def calls_in_queue(label: str, queue: str) -> list[Any]:
    there = step.options(queue=queue)
    given = [where.s(label), where_durably.s(label), group(where.si(label), where_durably.si(label))]
    return [there.call(f"call-{number}", one) for number, one in enumerate(given)]


@app.task(base=DurableTask)
def calls_later(seconds: float) -> list[Any]:
    later = {"countdown": seconds}
    with step.parallel() as block:
        parts = [
            block.call("durable", double.s(2).set(**later)),
            block.call("ordinary", add.s(1, 2).set(**later)),
            block.call("canvas", chain(add.s(1, 2).set(**later), add.s(1))),
        ]
    return [part.result() for part in parts]


@app.task(base=DurableTask)
def calls_canvas_later(seconds: float) -> Any:
    return step.call("canvas", chain(add.s(1, 2), add.s(1)).set(countdown=seconds))


@app.task(base=DurableTask)
def calls_typed() -> list[Any]:
    receipts = [step.call("durable", pays.s("o1", 5)), step.call("ordinary", pays_plainly.s("o2", 6))]
    receipts.append(step.options(returns=Receipt).call("told", app.signature(pays_plainly.name, args=("o3", 7))))
    step.sleep("nap", 0.1)
    assert all(isinstance(receipt, Receipt) for receipt in receipts), receipts
    return [[receipt.order, receipt.amount] for receipt in receipts]


@app.task(base=DurableTask)
def deep(levels: int) -> int:
    return 1 if levels == 0 else 1 + step.call("down", deep.s(levels - 1))


@app.task(base=DurableTask)
def many(count: int) -> int:
    with step.parallel() as block:
        parts = [block.call(f"child-{number}", double.s(number)) for number in range(count)]
    return sum(part.result() for part in parts)


@app.task(base=DurableTask)
async def gathers() -> list[Any]:
    return list(
        await asyncio.gather(
            astep.call("durable", double.s(4)),
            astep.call("ordinary", add.s(1, 2)),
            astep.call("canvas", chain(add.s(1, 1), double.s())),
            astep.run("local", time.sleep, 0.1),
            astep.sleep("nap", 0.3),
        )
    )


@app.task(base=DurableTask)
def mixes() -> list[Any]:
    with step.parallel() as block:
        parts = [
            block.call("durable", double.s(4)),
            block.call("ordinary", add.s(1, 2)),
            block.run("local", int, "7"),
            block.sleep("nap", 0.3),
        ]
    return [part.result() for part in parts]


@app.task(base=DurableTask)
def races(label: str) -> bool:
    with step.race() as race:
        race.call("slow", asleep_in_call.s(label))
        nap = race.sleep("nap", 1.5)
    return race.winner is nap


@app.task(base=DurableTask)
def fails_fast(label: str) -> None:
    with step.parallel() as block:
        block.call("slow", asleep_in_call.s(label))
        block.call("failing", chain(double.s(1), fails.si("fast")))


@app.task(base=DurableTask)
def nested(label: str, depth: int) -> None:
    try:
        if depth:
            step.call("down", nested.s(label, depth - 1))
        else:
            step.sleep("long", "1h")
    finally:
        step.run("clean", effect, label, f"clean-{depth}")


@app.task(base=DurableTask)
def catches(label: str, durably: bool = False, queue: str | None = None) -> str:
    """Calls one that is held, and tells its value or its error."""
    child = held_durably.s(label) if durably else held.s(label)
    try:
        return f"value: {step.options(queue=queue).call('it', child)}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@app.task(base=DurableTask)
def calls_again(label: str) -> int:
    return int(step.options(retry=Retry(max_attempts=3, delay=0.1)).call("it", fails_twice.s(label)))


@app.task(base=DurableTask)
def gives_up(label: str) -> str:
    try:
        step.options(timeout="1500ms").call("it", asleep_in_call.s(label))
    except Exception as error:
        return type(error).__name__
    return "nothing"


@app.task(base=DurableTask)
def calls_on(queue: str, label: str, durably: int, ordinary: int) -> list[str]:
    """Children on a queue of their own, all held."""
    with step.parallel() as block:
        there = block.options(queue=queue)
        parts = [there.call(f"durable-{n}", held_durably.s(f"{label}-d{n}")) for n in range(durably)]
        parts += [there.call(f"ordinary-{n}", held.s(f"{label}-o{n}")) for n in range(ordinary)]
    return [part.result() for part in parts]


@app.task(base=DurableTask)
def calls_long(label: str, seconds: float, queue: str) -> str:
    return str(step.options(queue=queue).call("it", takes.s(label, seconds)))


@app.task(base=DurableTask)
def dies_before_sending(label: str) -> list[Any]:
    """Its worker is killed once it is parked, when it is about to send the messages of what it calls."""
    if not effects(label, "died"):

        def die(*_: Any) -> None:
            effect(label, "died")
            os.kill(os.getpid(), signal.SIGKILL)

        running.follow = die  # type: ignore[assignment]
    with step.parallel() as block:
        parts = [block.call("durable", held_durably.s(f"{label}-d")), block.call("ordinary", held.s(f"{label}-o"))]
    return [part.result() for part in parts]
