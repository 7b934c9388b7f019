"""What stands in for pytest-celery's containers where there is no Docker engine: processes of this machine.

A node of pytest-celery (``CeleryTestBroker``, ``CeleryTestWorker``) asks its container for little: whether it is ready,
its log, and to be killed and started again. The two classes here answer that. Nothing in them is about the shop.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path


class RunningServer:
    """A broker, a result backend or a database that is there already, and stays."""

    status = "running"

    def __init__(self, name: str, url: str) -> None:
        self.id = self.name = name
        self.celeryconfig = {"url": url, "host_url": url}

    def ready(self) -> bool:
        return True

    def logs(self) -> str:
        return ""

    def reload(self) -> None: ...

    def teardown(self) -> None: ...

    def kill(self, signal: str | int = "SIGKILL") -> None:
        raise NotImplementedError(f"{self.name} was not started by these tests, and may have other users")

    def restart(self, timeout: float = 0) -> None:
        self.kill()


class WorkerProcess:
    """A Celery worker. Its command may be killed and started again, and goes on with the same log."""

    START_LIMIT = 30.0
    STOP_LIMIT = 10.0

    def __init__(self, name: str, queue: str, folder: Path) -> None:
        self.id = secrets.token_hex(6)  # as long as the host name of a container
        self.name = f"{name}-{self.id}"
        self._worker_name = name
        self._queue = queue
        self._log = folder / f"{self.name}.log"
        self._log_before_start = 0
        self._command: list[str] = []
        self._environment: dict[str, str] = {}
        self._cwd: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def hostname(self) -> str:
        """What ``CeleryTestWorker.hostname()`` says it is."""
        return f"{self._worker_name}@{self.id}"

    def start(self, command: list[str], environment: Mapping[str, str], cwd: Path) -> None:
        """Run a Python module and its arguments, and wait until the worker takes messages."""
        self._command = [sys.executable, "-m", *command]
        self._environment = dict(environment)
        self._cwd = cwd
        self._start()

    def _start(self) -> None:
        self._log_before_start = len(self.logs())
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._cwd,
                env=os.environ | self._environment,
                start_new_session=True,  # a group with its pool's processes: they can be killed together
            )
        deadline = time.monotonic() + self.START_LIMIT
        while not self.ready():
            if self.status != "running" or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} is {self.status} and not ready:\n{self.logs()[-3000:]}")
            time.sleep(0.05)

    # ------------------------------------------- what a node asks of its container

    @property
    def status(self) -> str:
        return "running" if self._process is not None and self._process.poll() is None else "exited"

    def ready(self) -> bool:
        return f"{self.hostname} ready." in self.logs()[self._log_before_start :]

    def logs(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def reload(self) -> None:
        """Nothing to do: unlike a container's, this status is never an old one."""

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Send a signal. SIGKILL gets the pool's processes, too: it stands for a machine that loses its power."""
        assert self._process is not None
        number = _number(signal)
        if number != _number("SIGKILL"):
            self._process.send_signal(number)
            return
        self._kill_group()

    def restart(self, timeout: float = STOP_LIMIT) -> None:
        self._stop(timeout)
        self._start()

    def teardown(self) -> None:
        if self._process is not None:
            self._stop(self.STOP_LIMIT)

    # ------------------------------------- what a worker's node asks of it besides

    def worker_name(self) -> str:
        return self._worker_name

    def worker_queue(self) -> str:
        return self._queue

    def log_level(self) -> str:
        return "INFO"

    def version(self) -> str:
        return version("celery")

    def _stop(self, timeout: float) -> None:
        """A warm shutdown, if there is something to shut down and it takes no longer than that."""
        assert self._process is not None
        if self.status == "running":
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
        self._kill_group()

    def _kill_group(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _number(name: str | int) -> int:
    return int(signal.Signals[name]) if isinstance(name, str) else name
