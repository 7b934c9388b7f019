"""Three orders, two workers, one of which is killed: ``make demo``.

Real worker processes on a real broker and database, both of them files in a temporary folder. The demo prints
what the steps report, kills the worker that ships ORD-002, and checks at the end that nothing was lost and
nobody was charged twice.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

LIMIT = 50.0
VICTIM = "ORD-002"
ORDERS = [
    ("ORD-001", "alice@example.com", "99.99"),
    ("ORD-002", "bob@example.com", "24.50"),
    ("ORD-003", "carol@example.com", "310.00"),
]


class Failed(Exception):
    """The demo did not show what it has to show."""


class Workers:
    """The worker processes of the demo."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._restarts = 2

    def start(self, name: str) -> None:
        command = [sys.executable, "-m", "celery", "-A", "example_project.shop", "worker", "--hostname", f"{name}@shop"]
        command += ["--concurrency", "1", "--loglevel", "WARNING", "--without-gossip", "--without-mingle"]
        log = (self._folder / f"{name}.log").open("ab")
        self._processes[name] = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"SHOP_WORKER": name}, start_new_session=True
        )

    def kill(self, name: str) -> None:
        """The worker and its child, as a machine that loses its power."""
        process = self._processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def check(self) -> None:
        """Start a worker again that has ended by itself, as a supervisor does: Kombu's file broker ends one that finds
        a message half written."""
        for name, process in list(self._processes.items()):
            if process.poll() is None:
                continue
            if not self._restarts:
                raise Failed(f"{name} ended by itself: {(self._folder / f'{name}.log').read_text()[-2000:]}")
            self._restarts -= 1
            self.start(name)

    def stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                pass
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class Journal:
    """What the steps have told so far."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "journal"
        self._read = 0
        self.entries: list[dict[str, str]] = []

    def news(self) -> list[dict[str, str]]:
        if not self._path.exists():
            return []
        data = self._path.read_bytes()[self._read :]
        complete = data[: data.rfind(b"\n") + 1]
        self._read += len(complete)
        fresh = [json.loads(line) for line in complete.splitlines()]
        self.entries += fresh
        return fresh

    def count(self, what: str, text: str = "") -> Counter[str]:
        return Counter(entry["order"] for entry in self.entries if entry["what"] == what and text in entry["text"])


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="celery-durable-demo-") as name:
        folder = Path(name)
        for part in ("broker", "control", "results"):
            (folder / part).mkdir()
        os.environ["SHOP_FOLDER"] = str(folder)
        workers = Workers(folder)
        try:
            show(folder, workers)
        except Failed as failure:
            print(f"\nThe demo failed: {failure}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nStopped.")
            return 130
        finally:
            workers.stop()
    return 0


def show(folder: Path, workers: Workers) -> None:
    from example_project.shop import Order, app, process_order

    began = time.monotonic()
    print("Starting two workers on SQLite and a file broker ...")
    workers.start("worker-1")
    workers.start("worker-2")
    runs = {}
    for order_id, email, total in ORDERS:
        order = Order(id=order_id, email=email, total=Decimal(total))
        runs[order_id] = process_order.apply_async((order,), task_id=order_id)
        print(f"Started the run {order_id} for {email}")
    print()
    journal = Journal(folder)
    follow(journal, workers, app, list(runs))
    summarize(journal, app, list(runs))
    print(f"\nDone in {time.monotonic() - began:.1f} s. Nothing is left running.")


def follow(journal: Journal, workers: Workers, app: Any, run_ids: list[str]) -> None:
    """Print the journal live, and kill the worker that ships the victim's order."""
    killed = False
    for _ in until(lambda: finished(app, run_ids)):
        for entry in journal.news():
            print_entry(entry)
            if not killed and (entry["order"], entry["what"]) == (VICTIM, "ship"):
                workers.kill(entry["worker"])
                killed = True
                print(f"\n  *** {entry['worker']} is killed (SIGKILL) while it ships {VICTIM} ***")
                print("  *** the charge is recorded; in 2 seconds the lease ends and another worker goes on ***\n")
        workers.check()
    for entry in journal.news():
        print_entry(entry)
    if not killed:
        raise Failed(f"{VICTIM} was never shipped, so no worker was killed")


def until(condition: Any) -> Iterator[None]:
    """Go around until the condition holds, for a limited time."""
    limit = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > limit:
            raise Failed(f"the orders were not done within {LIMIT:.0f} seconds")
        yield
        time.sleep(0.02)


def finished(app: Any, run_ids: list[str]) -> bool:
    from celery_durable import Durable

    return all(Durable(app).get(run_id).status in ("completed", "failed") for run_id in run_ids)


def print_entry(entry: dict[str, str]) -> None:
    mark = "--" if entry["what"] == "pass" else "  "
    print(f"[{entry['order']}] {entry['worker']} {mark} {entry['what']:<9} {entry['text']}", flush=True)


def summarize(journal: Journal, app: Any, run_ids: list[str]) -> None:
    """What the database says, against what the steps did."""
    from celery_durable import Durable

    print("\nrun       status      passes  steps (attempts)")
    charged = journal.count("charge", "succeeded")
    for run_id in run_ids:
        run = Durable(app).get(run_id)
        steps = ", ".join(f"{step.id} ({step.attempts})" for step in run.steps)
        print(f"{run.id:<9} {run.status:<11} {run.passes:>6}  {steps}")
        if run.status != "completed":
            raise Failed(f"{run_id} is {run.status}: {run.error}")
        if charged[run_id] != 1:
            raise Failed(f"{run_id} was charged {charged[run_id]} times")
    retried = [run_id for run_id, count in journal.count("charge", "failed").items() if count]
    validated = journal.count("validate")
    if not retried or any(validated[run_id] != 1 for run_id in run_ids):
        raise Failed(f"no charge was retried, or a finished step was repeated: {retried}, {dict(validated)}")
    print(f"\nEach order was charged once and validated once, though the charge of {', '.join(retried)} was retried")
    print(f"and the worker of {VICTIM} was killed: a finished step is never repeated.")


if __name__ == "__main__":
    # kill and Ctrl-C both end the workers, too.
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    sys.exit(main())
