"""The other engines: what they are installed from, and how a program of each is started and asked.

They come from PyPI, and one from npm, into an environment of the benchmark's own, which is kept in ``.bench``.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil
from sqlalchemy.engine import make_url

from bench.peer_talk import READY

__all__ = ["ENGINES", "Engine", "LeftOut", "Program", "Silent"]

ROOT = Path(__file__).parent.parent
ENVIRONMENT = ROOT / ".bench"
PYTHON = ENVIRONMENT / "bin" / "python"
RESTATE_SERVER = "@restatedev/restate-server@1.7.12"
PATIENCE = 600.0
"""Seconds for one answer."""


class LeftOut(Exception):
    """An engine that can't be had here, and why."""


class Silent(Exception):
    """A program that has ended, or does not answer."""


class Program:
    """A running program of an engine."""

    def __init__(self, process: subprocess.Popen[str], module: str, url: str) -> None:
        self._module = module
        self.url = url
        self._process = process
        assert self._hear() == READY

    def ask(self, line: str) -> list[float]:
        assert self._process.stdin is not None
        print(line, file=self._process.stdin, flush=True)
        figures: list[float] = json.loads(self._hear())
        return figures

    def processes(self) -> list[psutil.Process]:
        main = psutil.Process(self._process.pid)
        return [main, *main.children(recursive=True)]

    def _hear(self) -> str:
        assert self._process.stdout is not None
        heard, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
        line = self._process.stdout.readline().strip() if heard else ""
        if not line:
            raise Silent(f"{self._module} does not answer: see its log in {ENVIRONMENT.name}")
        return line


@dataclass(frozen=True)
class Engine:
    """What is needed to have programs of it."""

    name: str
    packages: tuple[str, ...]
    module: str
    argument: Callable[[str], str]
    """Of the program, by the URL of a new database."""
    needs_database: bool = True

    @contextmanager
    def opened(self, url: str) -> Iterator[Program]:
        """A program, on a new database. It ends with its input, and what it has started with it."""
        self.installed()
        command = [str(PYTHON), "-m", self.module, self.argument(url)]
        errors = ENVIRONMENT / f"{self.module}.log"
        with (
            errors.open("wb") as log,
            subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            ) as process,
        ):
            try:
                yield Program(process, self.module, url)
            finally:
                assert process.stdin is not None
                process.stdin.close()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:  # it has a thousand threads that sleep, say
                    process.kill()

    def installed(self) -> None:
        if not self.needs_database:
            _restate_server()
        _installed(self.packages)

    def versions(self) -> dict[str, str]:
        """Of each of its packages, as installed."""
        self.installed()
        names = [package.partition("=")[0].partition("[")[0] for package in self.packages]
        asked = f"from importlib.metadata import version; print(*(version(name) for name in {names}))"
        found = subprocess.run([str(PYTHON), "-c", asked], check=True, capture_output=True, text=True)
        versions = dict(zip(names, found.stdout.split(), strict=True))
        if not self.needs_database:
            versions["restate-server"] = RESTATE_SERVER.rpartition("@")[2]
        return versions


@cache
def _installed(packages: tuple[str, ...]) -> None:
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, *packages], capture_output=True, text=True)
    if done.returncode:
        raise LeftOut(f"pip does not install {' '.join(packages)}: {_last_line(done.stderr)}")


@cache
def _restate_server() -> str:
    """The path of the server, from npm's package of the platform."""
    pattern = "node_modules/@restatedev/restate-server-*/bin/restate-server"
    if not any(ENVIRONMENT.glob(pattern)):
        npm = shutil.which("npm")
        if npm is None:
            raise LeftOut("npm is not installed")
        command = [npm, "install", "--silent", "--no-fund", "--no-audit", "--no-save", "--prefix", str(ENVIRONMENT)]
        done = subprocess.run([*command, RESTATE_SERVER], capture_output=True, text=True)
        if done.returncode:
            raise LeftOut(f"npm does not install {RESTATE_SERVER}: {_last_line(done.stderr)}")
    found = next(ENVIRONMENT.glob(pattern), None)
    if found is None:
        raise LeftOut(f"npm's {RESTATE_SERVER} has no server for this platform")
    return str(found)


def _last_line(said: str) -> str:
    return said.strip().rpartition("\n")[2] or "it says nothing"


def _plain(url: str) -> str:
    """Without SQLAlchemy's name of a driver."""
    parts = make_url(url)
    return parts.set(drivername=parts.get_backend_name()).render_as_string(hide_password=False)


def _with_schema(url: str) -> str:
    """Absurd's tables come with its command line."""
    command = [str(PYTHON), str(PYTHON.parent / "absurdctl"), "init", "--database", _plain(url)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)
    return _plain(url)


ENGINES = {
    "dbos": Engine("DBOS", ("dbos==3.4.*", "psycopg[binary]"), "bench.peer_dbos", _plain),
    "absurd": Engine(
        "Absurd", ("absurd-sdk==0.5.*", "absurdctl==0.5.*", "psycopg[binary]"), "bench.peer_absurd", _with_schema
    ),
    "restate": Engine(
        "Restate", ("restate-sdk==1.3.*", "hypercorn==0.18.*", "httpx==0.28.*"), "bench.peer_restate",
        lambda url: _restate_server(), needs_database=False,
    ),
}  # fmt: skip
