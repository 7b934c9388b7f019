"""What goes wrong: a seeded choice of deeds, one every few seconds, each noted with its time."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

from amqp import NotFound
from kombu import Connection

from tests.chaos.servers import Redis
from tests.chaos.stage import Stage, Worker, libfaketime

__all__ = ["LEASE", "Monkey"]

LEASE = 4.0
"""Seconds, as the suite's app has it."""
QUEUE = "celery"


class Monkey:
    """Does one thing after the other, until its time is over. At the end nothing is cut or stopped any more."""

    def __init__(self, stage: Stage, seed: int, between: tuple[float, float] = (1.5, 5.0)) -> None:
        self._stage = stage
        self._random = random.Random(seed)
        self._between = between
        self._log = (stage.folder / "deeds").open("a", buffering=1)
        self.deeds: list[tuple[float, str]] = []
        self.counts: Counter[str] = Counter()
        self._kinds: dict[Callable[[], None], int] = {
            self.kill_child: 5,
            self.kill_worker: 4,
            self.stop_past_lease: 2,
            self.restart_broker: 1,
            self.kill_broker: 1,
            self.empty_broker: 2,
            self.restart_database: 1,
            self.kill_database: 1,
            self.cut: 4,
            self.hold_up: 2,
            self.double_messages: 4,
            self.skew_clock: 2,
        }

    def work(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        keeper_stop = threading.Event()
        keeper = threading.Thread(target=self._keep_up, args=(keeper_stop,), daemon=True)
        keeper.start()
        try:
            bag: list[Callable[[], None]] = []
            while time.monotonic() < end:
                if not bag:  # each kind as often as it should be, in any order
                    bag = [kind for kind, weight in self._kinds.items() for _ in range(weight)]
                    self._random.shuffle(bag)
                bag.pop()()
                time.sleep(min(self._random.uniform(*self._between), max(0.0, end - time.monotonic())))
        finally:
            keeper_stop.set()
            keeper.join()
            self._heal()

    def _keep_up(self, stop: threading.Event) -> None:
        """What watches over workers elsewhere, such as systemd."""
        while not stop.wait(1.0):
            for worker in self._stage.workers:
                worker.keep_up()

    def _heal(self) -> None:
        for proxy in self._stage.proxies.values():
            proxy.let_flow()
        for worker in self._stage.workers:
            worker.signal(signal.SIGCONT)
            worker.skew = None if worker.pid is None else worker.skew
            worker.keep_up()

    def note(self, kind: str, about: str = "") -> None:
        """A deed."""
        self.counts[kind] += 1
        self.remark(f"{kind} {about}".strip())

    def remark(self, what: str) -> None:
        at = time.monotonic()
        self.deeds.append((at, what))
        self._log.write(f"{at:.2f} {what}\n")

    def _worker(self) -> Worker:
        return self._random.choice(self._stage.workers)

    # ----------------------------------------------------------------- workers

    def kill_child(self) -> None:
        children = [(worker, pid) for worker in self._stage.workers for pid in worker.children()]
        if children:
            worker, pid = self._random.choice(children)
            self.note("child killed", f"{pid} of {worker.name}")
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_worker(self) -> None:
        worker = self._worker()
        worker.skew = None
        self.note("worker killed", worker.name)
        worker.kill()

    def stop_past_lease(self) -> None:
        worker = self._worker()
        seconds = LEASE * self._random.uniform(1.2, 2.0)
        self.note("worker stopped", f"{worker.name} for {seconds:.1f} s")
        worker.signal(signal.SIGSTOP)
        time.sleep(seconds)
        worker.signal(signal.SIGCONT)
        self.remark(f"{worker.name} goes on")

    def skew_clock(self) -> None:
        if libfaketime() is None:
            return
        worker = self._worker()
        worker.skew = self._random.choice(["+3600", "-3600"])
        self.note("clock skewed", f"{worker.name} started again, {worker.skew} s")
        worker.kill()

    # ----------------------------------------------------------------- servers

    def _restart(self, kind: str, server: Any, how: signal.Signals) -> None:
        self.note(kind, how.name)
        server.stop(how)
        time.sleep(self._random.uniform(0, 2))
        server.start()
        self.remark(f"{server.name} is back")

    def restart_broker(self) -> None:
        self._restart("broker restarted", self._stage.broker, self._stage.broker.fast)

    def kill_broker(self) -> None:
        self._restart("broker killed", self._stage.broker, self._stage.broker.hard)

    def empty_broker(self) -> None:
        self.note("broker emptied")
        self._stage.broker.forget()
        self.remark(f"{self._stage.broker.name} is empty")

    def restart_database(self) -> None:
        self._restart("database restarted", self._stage.database, self._stage.database.fast)

    def kill_database(self) -> None:
        self._restart("database killed", self._stage.database, self._stage.database.hard)

    # ----------------------------------------------------------------- connections

    def cut(self) -> None:
        what, proxy = self._random.choice(list(self._stage.proxies.items()))
        seconds = self._random.choice([0.0, self._random.uniform(0, 3)])
        self.note("connections cut", f"to the {what}, for {seconds:.1f} s")
        proxy.cut()
        time.sleep(seconds)
        proxy.restore()
        self.remark(f"{what} can be reached")

    def hold_up(self) -> None:
        what, proxy = self._random.choice(list(self._stage.proxies.items()))
        seconds = self._random.uniform(2, 2 * LEASE)
        then = self._random.choice(["flows", "cut"])
        self.note("connections held up", f"to the {what}, for {seconds:.1f} s, then {then}")
        proxy.hold_up()
        time.sleep(seconds)
        if then == "cut":
            proxy.cut()
            proxy.restore()
        proxy.let_flow()
        self.remark(f"{what} can be reached")

    # ----------------------------------------------------------------- messages

    def double_messages(self) -> None:
        """Copies of what is in the queue, or comes into it within a moment."""
        copies, deadline = 0, time.monotonic() + 3
        double = double_redis if isinstance(self._stage.broker, Redis) else double_rabbitmq
        while copies < 20 and time.monotonic() < deadline:
            copies += double(self._stage.broker, 2)
            time.sleep(0.02)
        self.note("messages doubled", f"{copies} copies")
        self.counts["copies"] += copies


def double_redis(broker: Any, times: int) -> int:
    with broker.client() as client:
        found = client.lrange(QUEUE, 0, 9)
        for message in found:
            for _ in range(times):
                copy = json.loads(message)
                copy["properties"]["delivery_tag"] = str(uuid.uuid4())
                client.lpush(QUEUE, json.dumps(copy))
    return len(found) * times


def double_rabbitmq(broker: Any, times: int) -> int:
    copies = 0
    with Connection(broker.url(broker.port)) as connection, connection.channel() as channel:
        while copies < 10 * times:
            try:
                message = channel.basic_get(QUEUE)
            except NotFound:  # no worker has made the queue yet
                return copies
            if message is None:
                break
            for _ in range(times):
                channel.basic_publish(message, exchange="", routing_key=QUEUE)
            channel.basic_reject(message.delivery_tag, requeue=True)
            copies += times
    return copies
