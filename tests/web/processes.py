"""A site's processes, its servers and its worker, and HTTP requests to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest

from tests.waiting import wait_until

ROOT = Path(__file__).parent.parent.parent
START_LIMIT = 30.0
EMPTY: Mapping[str, Any] = {}


class Process:
    """A Python process in a session of its own, whose output is in a file."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str], *arguments: str) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | environment,
                start_new_session=True,
            )

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait_for_line(self, pattern: str, limit: float = START_LIMIT) -> None:
        """Wait until the output has a line like this."""
        wait_until(lambda: self._lives() and re.search(pattern, self.log()), limit, f"{self.name} says {pattern!r}")

    def wait_for_port(self, port: int, limit: float = START_LIMIT) -> None:
        """Wait until it takes connections there."""

        def answers() -> bool:
            self._lives()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return True
            return False

        wait_until(answers, limit, f"{self.name} listens at port {port}")

    def stop(self) -> None:
        if not self.ended:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(5)

    def _lives(self) -> bool:
        assert not self.ended, f"{self.name} ended by itself:\n{self.log()[-3000:]}"
        return True


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
    return port


class Answer(NamedTuple):
    status: int
    json: Any


class Server:
    """A web server of a site. ``{port}`` in its arguments is where it is to listen."""

    def __init__(self, name: str, folder: Path, environment: dict[str, str], *arguments: str) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.process = Process(name, folder, environment, *(each.format(port=port) for each in arguments))
        self.process.wait_for_port(port)

    def post(self, path: str, body: bytes | Mapping[str, Any] = EMPTY, headers: dict[str, str] | None = None) -> Answer:
        """A POST request with a body of JSON, or of the bytes given."""
        data = body if isinstance(body, bytes) else json.dumps(dict(body)).encode()
        sent = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + quote(path), data=data, headers=sent, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return Answer(response.status, _read(response.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, _read(error.read()))

    def post_to_its_end(self, path: str, body: Mapping[str, Any] = EMPTY) -> None:
        """A POST request in which the server is killed."""
        with pytest.raises((http.client.HTTPException, OSError)):
            self.post(path, body)
        assert self.process.process.wait(5) == -signal.SIGKILL


def _read(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
