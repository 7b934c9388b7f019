"""Servers of the benchmark's own, on free ports and in a temporary directory: what they count is its work alone."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kombu import Connection
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

__all__ = ["DATABASES", "LOGGED", "free_port", "mariadb", "postgresql", "redis"]

LOGGED = 100
"""Milliseconds after which PostgreSQL logs that somebody waits for a lock, and for how long he did."""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def _folder(owner: str | None) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="bench-"))
    if owner:
        shutil.chown(folder, owner)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _until(answers: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + 60
    while True:
        try:
            answers()
            return
        except Exception:
            if process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"a server did not start:\n{log.read_text(errors='replace')[-2000:]}") from None
            time.sleep(0.1)


@contextmanager
def _running(command: list[str], log: Path, owner: str | None, answers: Callable[[], object]) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, user=owner, start_new_session=True)
    try:
        _until(answers, process, log)
        yield
    finally:
        process.send_signal(signal.SIGINT if "postgres" in command[0] else signal.SIGTERM)  # it would wait for clients
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _connects(url: str) -> Callable[[], object]:
    return lambda: create_engine(url, poolclass=NullPool).connect().close()


def _create_database(server: str) -> None:
    with create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool).connect() as connection:
        connection.exec_driver_sql("CREATE DATABASE bench")


def _unprivileged(name: str) -> str | None:
    """The user that a server which refuses root runs as."""
    return name if getpass.getuser() == "root" else None


def _program(name: str, *places: str) -> str:
    for place in places:
        for found in sorted(Path("/").glob(place.lstrip("/")), reverse=True):
            return str(found)
    found_on_path = shutil.which(name)
    if found_on_path is None:
        raise FileNotFoundError(f"{name} is not installed")
    return found_on_path


@contextmanager
def postgresql() -> Iterator[tuple[str, Path]]:
    """A server's URL and its log."""
    owner = _unprivileged("postgres")
    initdb = _program("initdb", "/usr/lib/postgresql/*/bin/initdb")
    with _folder(owner) as folder:
        data, log, port = folder / "data", folder / "log", free_port()
        as_owner = {"user": owner, "cwd": folder, "check": True, "stdout": subprocess.DEVNULL}
        subprocess.run([initdb, "-D", str(data), "-U", "postgres", "-A", "trust"], **as_owner)  # type: ignore[call-overload]
        options = {
            "port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": 200,
            "shared_buffers": "512MB", "max_wal_size": "4GB", "log_lock_waits": "on",
            "deadlock_timeout": f"{LOGGED}ms",
        }  # fmt: skip
        command = [str(Path(initdb).parent / "postgres"), "-D", str(data)]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        server = f"postgresql+psycopg://postgres@127.0.0.1:{port}"
        with _running(command, log, owner, _connects(f"{server}/postgres")):
            _create_database(f"{server}/postgres")
            yield f"{server}/bench", log


@contextmanager
def mariadb() -> Iterator[tuple[str, Path]]:
    """A server's URL and its log."""
    owner = _unprivileged("mysql")
    with _folder(owner) as folder:
        data, log, port = folder / "data", folder / "log", free_port()
        install = _program("mariadb-install-db")
        options = ["--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
        subprocess.run(
            [install, *options], user=owner, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        command = [
            _program("mariadbd"), "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1",
            f"--socket={folder / 'socket'}", "--innodb-buffer-pool-size=512M", "--innodb-log-file-size=512M",
            "--max-connections=200", "--innodb-print-all-deadlocks=1", f"--pid-file={folder / 'pid'}",
        ]  # fmt: skip
        url = f"mysql+pymysql://root@127.0.0.1:{port}/bench?charset=utf8mb4"
        bare = f"mysql+pymysql://root@127.0.0.1:{port}/"
        with _running(command, log, owner, _connects(bare)):
            _create_database(bare)
            yield url, log


@contextmanager
def redis() -> Iterator[str]:
    """A broker's URL."""
    with _folder(None) as folder:
        port = free_port()
        command = [_program("redis-server"), "--port", str(port), "--save", "", "--dir", str(folder)]
        url = f"redis://127.0.0.1:{port}/0"

        def answers() -> None:
            with Connection(url, connect_timeout=1) as connection:
                connection.default_channel.client.ping()

        with _running(command, folder / "log", None, answers):
            yield url


DATABASES = {"postgresql": postgresql, "mysql": mariadb}
