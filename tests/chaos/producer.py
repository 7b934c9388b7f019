"""The process that starts runs at a steady rate, emits what they wait for, and cancels some.

It does each thing again until it is done: a start by its id, an event by its id, so that doing it twice does it once.
Its journal tells what it meant to do, before it tries. When it is told to stop it plans nothing new, and ends when all
is done.
"""

from __future__ import annotations

import argparse
import faulthandler
import heapq
import itertools
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from celery import chain, chord, group

from celery_durable import Durable, WrongStatus
from tests.chaos import plans, shapes
from tests.chaos.app import app
from tests.chaos.plans import Plan

PAUSE = 0.5
"""Seconds after which a thing that failed is tried again."""

durable = Durable(app)


class Producer:
    def __init__(self, journal: Path, seed: int, rate: float, prefix: str) -> None:
        self._journal = journal.open("a", buffering=1)
        self._plans = plans.plans(random.Random(seed), prefix)
        self._rate = rate
        self._todo: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        self._pending = 0
        self._lock = threading.Condition()
        self._stopping = threading.Event()

    def stop(self, *_: Any) -> None:
        self._stopping.set()

    def note(self, what: str, **facts: Any) -> None:
        self._journal.write(json.dumps({"what": what, "at": time.monotonic(), **facts}) + "\n")

    def at(self, moment: float, do: Callable[[], None]) -> None:
        with self._lock:
            self._pending += 1
            heapq.heappush(self._todo, (moment, next(self._count), do))

    def work(self) -> None:
        next_plan = time.monotonic()
        with ThreadPoolExecutor(4) as pool:
            while not self._stopping.is_set() or self._pending:
                now = time.monotonic()
                if now >= next_plan and not self._stopping.is_set():
                    made = next(self._plans)
                    next_plan += 1 / self._rate
                    self.note("planned", plan=made.written())
                    self.at(now, partial(self.start, made))
                while self._todo and self._todo[0][0] <= now:
                    with self._lock:
                        _, _, do = heapq.heappop(self._todo)
                    pool.submit(self._try, do)
                time.sleep(0.01)
        self.note("ended")

    def _try(self, do: Callable[[], None]) -> None:
        try:
            do()
        except Exception as error:
            self.note("failed", error=f"{type(error).__name__}: {error}"[:300])
            self.at(time.monotonic() + PAUSE, do)
        finally:
            with self._lock:
                self._pending -= 1

    def start(self, made: Plan) -> None:
        start(made)
        self.note("started", id=made.id)
        now = time.monotonic()
        for number, (after, name, payload) in enumerate(made.events):
            self.at(now + after, partial(self.emit, made, number, name, payload))
        if made.cancel_after is not None:
            self.at(now + made.cancel_after, partial(self.cancel, made.id))

    def emit(self, made: Plan, number: int, name: str, payload: Any) -> None:
        event_id = f"{made.id}:{number}"
        durable.emit(name, made.id if payload is None else payload, key=made.id, event_id=event_id)
        self.note("emitted", id=event_id)

    def cancel(self, run_id: str) -> None:
        try:
            durable.cancel(run_id)
        except WrongStatus as error:
            self.note("not cancelled", id=run_id, why=str(error))
        self.note("cancelled", id=run_id)


def start(made: Plan) -> None:
    run_id = made.id
    if made.shape == "signup":
        return  # its event is all there is
    if made.shape == "chained":
        first, second = (shapes.member.s(1).set(task_id=f"{run_id}:{name}") for name in ("first", "second"))
        chain(first, second, shapes.told.s(run_id, "end")).apply_async()
        return
    if made.shape == "chorded":
        members = [shapes.member.s(number).set(task_id=f"{run_id}:{number}") for number in range(made.args[0])]
        header = group(members).set(task_id=f"{run_id}:group")
        chord(header, shapes.summed.s().set(task_id=f"{run_id}:body", link=shapes.told.s(run_id, "end"))).apply_async()
        return
    options: dict[str, Any] = {"task_id": run_id}
    if made.shape in plans.LINKED:
        durably = shapes.told_durably.s().set(task_id=f"{run_id}:callback")
        options["link"] = [shapes.told.s(run_id, "callback"), durably]
    if made.shape == "doomed":
        options["link_error"] = shapes.told_error.s(run_id)
    getattr(shapes, made.shape).apply_async(args=made.args, **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("journal", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--prefix", required=True)
    given = parser.parse_args()
    producer = Producer(given.journal, given.seed, given.rate, given.prefix)
    signal.signal(signal.SIGTERM, producer.stop)
    faulthandler.register(signal.SIGUSR1)
    producer.work()
    os._exit(0)  # connections to what is away hold nothing up


if __name__ == "__main__":
    main()
