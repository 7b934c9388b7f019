"""Servers of the suite's own: each in a folder of its own and on free ports, started, stopped and emptied at will."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["BROKERS", "DATABASES", "MariaDB", "PostgreSQL", "RabbitMQ", "Redis", "Server", "Unready", "missing"]

UP = 120.0
"""Seconds that a server has to come up: this may be a machine with much else to do."""
PLACES = [
    "/usr/sbin",
    "/usr/lib/rabbitmq/bin",  # the script of Debian's in /usr/sbin starts it as another user, in that one's folders
    *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True),
]


class Unready(Exception):
    """A server did not come up."""


def binary(name: str) -> str | None:
    """Where a program is, also where Debian has it out of the way."""
    path = os.pathsep.join([*PLACES[1:], os.environ.get("PATH", os.defpath), PLACES[0]])
    return shutil.which(name, path=path)


def missing(*servers: type[Server]) -> list[str]:
    """The programs of these servers that this machine lacks."""
    return [name for server in servers for name in server.programs if binary(name) is None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def user_of(name: str) -> str | None:
    """Who a server runs as that refuses to be root's: its own user, if root is asking."""
    return name if os.getuid() == 0 else None


class Server:
    """A server process. What is in its folder outlives it."""

    name: str
    programs: tuple[str, ...]
    user: str | None = None

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder / self.name
        self.folder.mkdir()
        if self.user is not None:
            owner = pwd.getpwnam(self.user)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None
        self.prepare()

    def url(self, port: int) -> str:
        """How a client reaches it through a port."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Make what it needs to start."""

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    def ping(self) -> None:
        """Raise if it does not answer."""
        raise NotImplementedError

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=os.environ | self.environment(),
                user=self.user,
                start_new_session=True,
            )
        try:
            wait_for(self.ping, self._process)
        except Unready as error:
            tail = (self.folder / "log").read_text(errors="replace")[-2000:]
            raise Unready(f"{self.name} did not come up ({error}):\n{tail}") from None

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        self._end_group(process)

    def _end_group(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

    def run(self, *command: str) -> None:
        """Run a program of it to the end, as its user."""
        found = binary(command[0])
        assert found is not None, f"{command[0]} is not installed"
        done = subprocess.run(
            [found, *command[1:]],
            cwd=self.folder,
            env=os.environ | self.environment(),
            user=self.user,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unready(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def wait_for(ping: Callable[[], None], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + UP
    while True:
        try:
            return ping()
        except Exception as error:
            if process.poll() is not None:
                raise Unready(f"it ended with {process.returncode}") from error
            if time.monotonic() > deadline:
                raise Unready(f"after {UP:g} s: {error}") from error
        time.sleep(0.1)


class Redis(Server):
    """As a broker it may be emptied; as a result backend it keeps what it has, also when it is restarted."""

    name = "redis"
    programs = ("redis-server",)
    fast, hard = signal.SIGTERM, signal.SIGKILL

    def url(self, port: int, number: int = 0) -> str:
        return f"redis://127.0.0.1:{port}/{number}"

    def command(self) -> list[str]:
        given = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "save": "", "appendonly": "yes"}
        options = [part for name, value in given.items() for part in (f"--{name}", str(value))]
        return [binary("redis-server") or "redis-server", *options]

    def ping(self) -> None:
        with self.client() as client:
            client.ping()

    def client(self):
        import redis

        return redis.Redis.from_url(self.url(self.port), socket_timeout=10)

    def forget(self) -> None:
        """All that it has is deleted."""
        with self.client() as client:
            client.flushall()


class Backend(Redis):
    name = "backend"


class RabbitMQ(Server):
    name = "rabbitmq"
    programs = ("rabbitmq-server", "rabbitmqctl", "epmd")
    fast, hard = signal.SIGTERM, signal.SIGKILL

    def url(self, port: int) -> str:
        return f"amqp://guest:guest@127.0.0.1:{port}//"

    def prepare(self) -> None:
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "rabbitmq.conf").write_text("vm_memory_high_watermark.relative = 0.9\n")
        self._epmd_port = free_port()
        self._dist_port = free_port()
        # A name server of its own: one that a node starts by itself would stay when the node is gone.
        self._epmd = subprocess.Popen(
            [binary("epmd") or "epmd", "-port", str(self._epmd_port)],
            env=os.environ | {"ERL_EPMD_ADDRESS": "127.0.0.1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def command(self) -> list[str]:
        return [binary("rabbitmq-server") or "rabbitmq-server"]

    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "RABBITMQ_NODENAME": f"chaos{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "logs"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
        }

    def ping(self) -> None:
        from kombu import Connection

        with Connection(self.url(self.port), connect_timeout=3) as connection:
            connection.connect()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        super().stop(how)
        # A node that was killed is known by its name until the name server notices.
        wait_until_closed(self.port)
        wait_until_closed(self._dist_port)

    def forget(self) -> None:
        """All messages are deleted, and the queues that they were in."""
        process = self._process
        assert process is not None
        self.stop(self.hard)
        shutil.rmtree(self.folder / "mnesia", ignore_errors=True)
        self.start()

    def close(self) -> None:
        self.stop()
        self._epmd.kill()
        self._epmd.wait(10)


def wait_until_closed(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return
        time.sleep(0.1)


class PostgreSQL(Server):
    """Without fsync: what is killed is the server, never its machine."""

    name = "postgresql"
    programs = ("initdb", "postgres")
    fast, hard = signal.SIGINT, signal.SIGQUIT
    user = user_of("postgres")

    def url(self, port: int) -> str:
        return f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres?connect_timeout=5"

    def prepare(self) -> None:
        self.run("initdb", "-D", "data", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync")

    def command(self) -> list[str]:
        options = {"listen_addresses": "127.0.0.1", "fsync": "off", "max_connections": "200"}
        given = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [binary("postgres") or "postgres", "-D", "data", "-p", str(self.port), "-k", str(self.folder), *given]

    def ping(self) -> None:
        ping_database(self.url(self.port))


class MariaDB(Server):
    """Commits are handed to the system, and not waited for on the disk: see :class:`PostgreSQL`."""

    name = "mysql"
    programs = ("mariadbd", "mariadb-install-db")
    fast, hard = signal.SIGTERM, signal.SIGKILL
    user = user_of("mysql")

    def url(self, port: int) -> str:
        return f"mysql+pymysql://root@127.0.0.1:{port}/test?charset=utf8mb4&connect_timeout=5"

    def prepare(self) -> None:
        rights = "--auth-root-authentication-method=normal"
        self.run("mariadb-install-db", "--no-defaults", f"--datadir={self.folder / 'data'}", rights)

    def command(self) -> list[str]:
        options = {
            "datadir": self.folder / "data",
            "port": self.port,
            "bind-address": "127.0.0.1",
            "socket": self.folder / "socket",
            "pid-file": self.folder / "pid",
            "innodb-flush-log-at-trx-commit": 2,
            "skip-name-resolve": 1,
        }
        given = [f"--{name}={value}" for name, value in options.items()]
        return [binary("mariadbd") or "mariadbd", "--no-defaults", *given]

    def ping(self) -> None:
        ping_database(self.url(self.port))


def ping_database(url: str) -> None:
    from sqlalchemy import create_engine

    engine = create_engine(url)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


BROKERS: dict[str, type[Redis | RabbitMQ]] = {"redis": Redis, "rabbitmq": RabbitMQ}
DATABASES: dict[str, type[PostgreSQL | MariaDB]] = {"postgresql": PostgreSQL, "mysql": MariaDB}
