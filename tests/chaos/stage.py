"""All that takes part: servers, proxies in front of them, worker processes, and the producer."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from sqlalchemy import Engine, create_engine, text

from celery_durable.store.store import Store
from tests.chaos.effects import VARIABLE
from tests.chaos.servers import BROKERS, DATABASES, Backend, RabbitMQ, Redis
from tests.chaos.shapes import ACCOUNTS
from tests.proxy import Proxy

__all__ = ["ROOT", "Skew", "Stage", "Worker", "libfaketime"]

ROOT = Path(__file__).parent.parent.parent
WORKERS = ("one", "two", "three")
CHILDREN = 2

OWN_TABLES = (
    "CREATE TABLE chaos_payment (run VARCHAR(255) NOT NULL, name VARCHAR(100) NOT NULL, nonce VARCHAR(20) NOT NULL)",
    "CREATE TABLE chaos_account (id INTEGER PRIMARY KEY, amount INTEGER NOT NULL)",
    *(f"INSERT INTO chaos_account VALUES ({number}, 0)" for number in range(ACCOUNTS)),
)


def libfaketime() -> str | None:
    """The library that gives a process another time, where the machine has it."""
    found = [
        *Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"),
        *Path("/usr/lib").glob("faketime/libfaketimeMT.so.1"),
    ]
    return str(found[0]) if found else None


Skew = str
"""What libfaketime is told, such as ``+3600``: how far a worker's clock is from the others'."""


class Worker:
    """A worker that is started again whenever it has ended."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.skew: Skew | None = None
        self.ended_by_itself = 0
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._expected_to_end = False

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def children(self) -> list[int]:
        try:
            return [child.pid for child in psutil.Process(self.pid).children()] if self.pid else []
        except psutil.NoSuchProcess:
            return []

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "tests.chaos.app",
            "worker",
            "--hostname",
            f"{self.name}@chaos",
        ]
        command += ["--concurrency", str(CHILDREN), "--loglevel", "INFO", "--without-gossip", "--without-mingle"]
        environment = os.environ | self._environment
        if self.skew is not None:
            library = libfaketime()
            assert library is not None, "the package faketime is not installed"
            environment |= {"LD_PRELOAD": library, "FAKETIME": self.skew, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
            environment["PYTHONPATH"] = str(Path(__file__).parent / "clock")
        self._expected_to_end = False
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=ROOT, env=environment, start_new_session=True
            )

    def kill(self) -> None:
        """A machine that loses its power."""
        self._expected_to_end = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def keep_up(self) -> None:
        """Start it again if it has ended."""
        if self.pid is None and self._process is not None:
            if not self._expected_to_end:
                self.ended_by_itself += 1
            self.kill()
            self.start()

    def stop(self) -> None:
        """Warm shutdown."""
        self._expected_to_end = True
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(30)
            self.kill()


class Stage:
    """Use it as a context manager."""

    def __init__(self, broker: str, database: str, keep: Path | None = None) -> None:
        self._kept = keep is not None
        self.folder = keep or Path(tempfile.mkdtemp(prefix="celery-durable-chaos-"))
        self.folder.mkdir(exist_ok=True, parents=True)
        self.folder.chmod(0o711)  # the users of the databases go through it
        self._open = contextlib.ExitStack()
        self._broker_name, self._database_name = broker, database
        self._quiet = threading.Event()

    def __enter__(self) -> Stage:
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        if not self._kept:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _build(self) -> None:
        self.broker: Redis | RabbitMQ = self._serve(BROKERS[self._broker_name](self.folder))
        self.backend = self._serve(Backend(self.folder))
        self.database = self._serve(DATABASES[self._database_name](self.folder))
        self.proxies = {
            what: Proxy("127.0.0.1", server.port)
            for what, server in (("broker", self.broker), ("backend", self.backend), ("database", self.database))
        }
        for proxy in self.proxies.values():
            self._open.callback(proxy.cut)
        self.database_url = self.database.url(self.database.port)
        store = Store(self.database_url)
        store.migrate()
        store.engine.dispose()
        self.engine: Engine = create_engine(self.database_url, pool_pre_ping=True)
        self._open.callback(self.engine.dispose)
        with self.engine.begin() as connection:
            for statement in OWN_TABLES:
                connection.execute(text(statement))
        self.journal, self.effects = self.folder / "journal", self.folder / "effects"
        self.config = {
            "broker_url": self.broker.url(self.proxies["broker"].port),
            "result_backend": self.backend.url(self.proxies["backend"].port),
            "durable_database_url": self.database.url(self.proxies["database"].port),
        }
        self.environment = {"CHAOS_CONFIG": json.dumps(self.config), VARIABLE: str(self.effects)}
        self.workers = [Worker(name, self.folder, self.environment) for name in WORKERS]
        for worker in self.workers:
            self._open.callback(worker.kill)
            worker.start()

    def _serve(self, server):
        self._open.callback(getattr(server, "close", server.stop))
        server.start()
        return server

    def wait_for_workers(self, limit: float = 90) -> None:
        wait(lambda: all("ready." in worker.log.read_text(errors="replace") for worker in self.workers), limit)

    def start_producer(self, seed: int, rate: float) -> None:
        command = [sys.executable, "-m", "tests.chaos.producer", str(self.journal)]
        command += ["--seed", str(seed), "--rate", str(rate), "--prefix", "run"]
        with (self.folder / "producer.log").open("ab") as log:
            self._producer = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=ROOT, env=os.environ | self.environment, start_new_session=True
            )
        self._open.callback(self._end_producer)

    def _end_producer(self) -> None:
        self._producer.kill()
        self._producer.wait(10)

    def stop_producer(self, limit: float = 180) -> None:
        """It does what it has planned to the end."""
        self._producer.terminate()
        try:
            status = self._producer.wait(limit)
        except subprocess.TimeoutExpired:
            self._producer.send_signal(signal.SIGUSR1)  # its log tells where it hangs
            raise TimeoutError(f"the producer is not through after {limit:g} s: see {self.folder}") from None
        if status:
            log = (self.folder / "producer.log").read_text(errors="replace")
            raise RuntimeError(f"the producer ended with {status}:\n{log[-2000:]}")


def wait(condition: Callable[[], bool], limit: float, pause: float = 0.2) -> bool:
    """Whether it came about within the limit."""
    deadline = time.monotonic() + limit
    while True:
        with contextlib.suppress(FileNotFoundError):
            if condition():
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
