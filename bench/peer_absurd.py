"""Absurd doing what ``bench.peers`` asks for, in an environment of its own: ``python -m bench.peer_absurd URL``.

Its worker is a process beside this one, as ours is, and asks for work each 10 ms (by default each 250): it is there
only while something is measured that needs it. Where one run alone is measured, this process executes it itself.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from absurd_sdk import Absurd  # type: ignore[import-not-found,unused-ignore]  # in its own environment alone

from bench.order_steps import charge, mail, nothing, reserve, ship
from bench.peer_talk import READY, serve

# mypy: disable-error-code="untyped-decorator,unused-ignore"

QUEUE = "bench"
POLLING = 0.01
AT_A_TIME = 10
"""Runs that are claimed by one statement, where one is executed after another."""
CONCURRENCY = 2
"""Runs at a time where they wait for events and times: our worker has two processes there."""


def connected(url: str) -> Absurd:
    """A client that knows the tasks."""
    app = Absurd(url, queue_name=QUEUE)

    @app.register_task("steps")
    def many_steps(count: int, context: Any) -> None:
        for index in range(count):
            context.step(f"step-{index}", nothing)

    @app.register_task("steps and a nap")
    def steps_and_nap(count: int, context: Any) -> None:
        for index in range(count):
            context.step(f"step-{index}", nothing)
        context.sleep_for("nap", 0.05)

    @app.register_task("order")
    def order(number: int, context: Any) -> Any:
        state = context.step("reserve", lambda: reserve({"order": number}))
        state = context.step("charge", lambda: charge(state))
        state = context.step("ship", lambda: ship(state))
        return context.step("mail", lambda: mail(state))

    @app.register_task("time")
    def time_of_body(_: None, context: Any) -> float:
        return time.time()

    @app.register_task("waits")
    def waits(event: str, context: Any) -> Any:
        context.await_event(event)
        return context.step("first line", time.time)

    @app.register_task("naps")
    def naps(given: list[int], context: Any) -> None:
        count, every = given
        for number in range(1, count + 1):
            if number % every == 0:
                context.sleep_for(f"nap-{number}", 0.001)
            else:
                context.step(f"step-{number}", nothing)

    @app.register_task("asleep")
    def asleep(seconds: float, context: Any) -> Any:
        asked = context.step("asked", time.time)
        context.sleep_for("parked", seconds)
        return [asked, context.step("woke", time.time)]

    return app


class Measured:
    """What is asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.app = connected(url)
        self.app.create_queue()
        self.waiting: list[tuple[Any, str]] = []
        """The runs that wait for an event, with its name, the longest first."""
        self.named = 0

    def steps(self, count: int) -> list[float]:
        self.app.spawn("steps", count)
        began = time.perf_counter()
        self.app.work_batch()
        return [time.perf_counter() - began]

    def replay(self, count: int) -> list[float]:
        """The second pass of a run that has parked behind its steps, from claiming it to its end."""
        run = self.app.spawn("steps and a nap", count)["task_id"]
        self.app.work_batch()
        time.sleep(0.1)
        began = time.perf_counter()
        self.app.work_batch()
        took = time.perf_counter() - began
        assert self.app.fetch_task_result(run).state == "completed"
        return [took]

    def orders(self, count: int) -> list[float]:
        with self._worker(1):
            began = time.perf_counter()
            runs = [self.app.spawn("order", number)["task_id"] for number in range(count)]
            self._results(runs)
            return [time.perf_counter() - began]

    def starts(self, count: int) -> list[float]:
        found = []
        with self._worker(1):
            for _ in range(count):
                began = time.time()
                (first_line,) = self._results([self.app.spawn("time", None)["task_id"]])
                found.append(first_line - began)
                time.sleep(0.01)
        return found

    def events(self, parked: int, emits: int, pause: float) -> list[float]:
        with self._worker(CONCURRENCY):
            while len(self.waiting) < parked:
                self.named += 1
                event = f"bench.event:k{self.named}"
                self.waiting.append((self.app.spawn("waits", event)["task_id"], event))
            for run, _ in self.waiting:
                self._until(run, "sleeping")
            time.sleep(0.5)
            woken, emitted = self.waiting[:emits], []
            for number, (_, event) in enumerate(woken):
                emitted.append(time.time())
                self.app.emit_event(event, {"number": number})
                time.sleep(pause)
            del self.waiting[:emits]
            first_lines = self._results([run for run, _ in woken])
        return [line - at for line, at in zip(first_lines, emitted, strict=True)]

    def suspends(self, count: int, every: int) -> list[float]:
        """Asked for work without a pause, the quickest way."""
        began = time.perf_counter()
        run = self.app.spawn("naps", [count, every])["task_id"]
        while self.app.fetch_task_result(run).state != "completed":
            self.app.work_batch()
        return [time.perf_counter() - began]

    def sleeps(self, count: int, seconds: float, pause: float) -> list[float]:
        with self._worker(CONCURRENCY):
            runs = []
            for _ in range(count):
                runs.append(self.app.spawn("asleep", seconds)["task_id"])
                time.sleep(pause)
            return [woke - asked - seconds for asked, woke in self._results(runs)]

    def parked(self, count: int) -> list[float]:
        """The worker is this process, so that its memory is what is looked at."""
        began = time.perf_counter()
        for _ in range(count):
            self.app.spawn("asleep", 3600.0)
        for _ in range(count):
            self.app.work_batch()
        return [time.perf_counter() - began]

    @contextmanager
    def _worker(self, concurrency: int) -> Iterator[None]:
        command = [sys.executable, "-m", "bench.peer_absurd", self.url, str(concurrency)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                assert process.stdout.readline().strip() == READY
                yield
            finally:
                process.kill()

    def _until(self, run: Any, state: str) -> None:
        while self.app.fetch_task_result(run).state != state:
            time.sleep(0.002)

    def _results(self, runs: list[Any]) -> list[Any]:
        for run in runs:
            self._until(run, "completed")
        return [self.app.fetch_task_result(run).result for run in runs]


def work(url: str, concurrency: int) -> None:
    """Be a worker, until the process is ended."""
    app = connected(url)
    print(READY, flush=True)
    batch = AT_A_TIME if concurrency == 1 else concurrency
    app.start_worker(concurrency=concurrency, batch_size=batch, poll_interval=POLLING)


def main() -> None:
    if len(sys.argv) > 2:
        work(sys.argv[1], int(sys.argv[2]))
        return
    measured = Measured(sys.argv[1])
    asked = ("steps", "replay", "orders", "starts", "events", "suspends", "sleeps", "parked")
    serve({name: getattr(measured, name) for name in asked})


if __name__ == "__main__":
    main()
