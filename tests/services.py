"""Where the services are that tests run against, and a place on each that a test has for itself.

An environment variable says where a service is. One that does not answer skips the tests that need it; with
`CI=true` it fails them, so that nothing is left out unseen.

A test gets a namespace of its own: a schema on PostgreSQL, a database on MySQL, a numbered database on Redis; and a
session of tests a vhost on RabbitMQ. A session that was killed leaves its namespaces behind, and the next one drops
them. It knows them by what died with the session's connection, so that sessions side by side, or on two machines, do
not take each other's: a lock named like the namespaces on the SQL servers, a client's id on Redis, the connection
itself on RabbitMQ.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, cast
from urllib.parse import quote, urlsplit, urlunsplit

import pytest
from amqp import NotFound, ResourceLocked
from kombu import Connection as BrokerConnection
from kombu import Queue
from sqlalchemy import URL, Connection, Engine, create_engine, make_url, text
from sqlalchemy.pool import StaticPool

PREFIX = "durable_test"

# -- Where they are


@dataclass(frozen=True)
class Service:
    """A service, the variable that says where it is, and a connection that shows whether it answers."""

    name: str
    variable: str
    default: str
    connect: Callable[[str], object]

    @property
    def url(self) -> str:
        return os.environ.get(self.variable) or self.default


def _sql_connect(url: str) -> None:
    engine = _engine(make_url(url))
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def _redis_connect(url: str) -> None:
    with _redis_client(url) as client:
        client.ping()


def _rabbitmq_connect(url: str) -> None:
    with BrokerConnection(url, connect_timeout=3) as connection:
        connection.connect()


POSTGRESQL = Service(
    "PostgreSQL",
    "DURABLE_TEST_POSTGRESQL",
    "postgresql+psycopg://postgres@127.0.0.1:5432/test",
    _sql_connect,
)
MYSQL = Service(
    "MySQL",
    "DURABLE_TEST_MYSQL",
    "mysql+pymysql://root@127.0.0.1:3306/test?charset=utf8mb4",
    _sql_connect,
)
REDIS = Service(
    "Redis",
    "DURABLE_TEST_REDIS",
    "redis://127.0.0.1:6379",
    _redis_connect,
)
RABBITMQ = Service(
    "RabbitMQ",
    "DURABLE_TEST_RABBITMQ",
    "amqp://guest:guest@127.0.0.1:5672",
    _rabbitmq_connect,
)


@functools.cache
def trouble(service: Service) -> str | None:
    """Why the service can't be used, in one line; None if it can. Asked once per session."""
    try:
        service.connect(service.url)
    except Exception as error:
        cause = getattr(error, "orig", None) or error  # SQLAlchemy's errors wrap the driver's
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        return (
            f"{service.name} does not answer at {without_password(service.url)}: start it, or set {service.variable} "
            f"({reason})"
        )
    return None


def require(service: Service) -> str:
    """The service's URL, or the end of the test that needs it: skipped, in CI failed."""
    __tracebackhide__ = True
    message = trouble(service)
    if message is not None:
        give_up(message)
    return service.url


def give_up(message: str) -> NoReturn:
    """The end of a test that lacks something of its machine: skipped, in CI failed."""
    __tracebackhide__ = True
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def without_password(url: str) -> str:
    parts = urlsplit(url)
    userinfo, at, where = parts.netloc.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    return urlunsplit(parts._replace(netloc=f"{user}{colon and ':***'}{at}{where}"))


# -- SQL servers


def _engine(url: URL) -> Engine:
    return create_engine(url, poolclass=StaticPool, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3})


class SqlNamespaces:
    """Schemas or databases on one server, each for one test, named `durable_test_<session>_<number>`."""

    def __init__(self, server: URL) -> None:
        self.server = server
        self.session = secrets.token_hex(4)
        self._engine = _engine(server)
        self._connection: Connection = self._engine.connect()
        self._count = 0
        self._hold(self.session)
        self._drop_leftovers()

    @contextlib.contextmanager
    def fresh(self) -> Iterator[str]:
        """The URL of a new and empty namespace, dropped afterwards with all that is in it."""
        self._count += 1
        name = f"{PREFIX}_{self.session}_{self._count}"
        self._create(name)
        try:
            yield self._url(name).render_as_string(hide_password=False)
        finally:
            self._drop(name)

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()

    def _drop_leftovers(self) -> None:
        for name in self._names():
            session = name.removeprefix(f"{PREFIX}_").partition("_")[0]
            if session != self.session and self._is_dead(session):
                self._drop(name)

    def _all(self, statement: str, **values: object) -> list[Any]:
        return list(self._connection.execute(text(statement), values).scalars())

    def _run(self, statement: str) -> None:
        self._connection.execute(text(statement))

    def _hold(self, session: str) -> None:
        """Take the lock that lives as long as the session's connection."""
        raise NotImplementedError

    def _is_dead(self, session: str) -> bool:
        raise NotImplementedError

    def _names(self) -> list[str]:
        raise NotImplementedError

    def _create(self, name: str) -> None:
        raise NotImplementedError

    def _drop(self, name: str) -> None:
        raise NotImplementedError

    def _url(self, name: str) -> URL:
        raise NotImplementedError


class PostgresqlSchemas(SqlNamespaces):
    """A schema is made in a millisecond or two, a database in fifty."""

    def _hold(self, session: str) -> None:
        self._all("SELECT pg_advisory_lock(:key)", key=int(session, 16))

    def _is_dead(self, session: str) -> bool:
        key = int(session, 16)
        if not self._all("SELECT pg_try_advisory_lock(:key)", key=key)[0]:
            return False
        self._all("SELECT pg_advisory_unlock(:key)", key=key)
        return True

    def _names(self) -> list[str]:
        return self._all("SELECT nspname FROM pg_namespace WHERE nspname LIKE :like", like=f"{PREFIX}\\_%")

    def _create(self, name: str) -> None:
        self._run(f"CREATE SCHEMA {name}")

    def _drop(self, name: str) -> None:
        self._end_sessions(name)
        self._run(f"DROP SCHEMA IF EXISTS {name} CASCADE")

    def _end_sessions(self, name: str) -> None:
        """End who still holds a lock in it (a killed worker's transaction): DROP would wait for them."""
        self._all(
            "SELECT pg_terminate_backend(pid) FROM (SELECT DISTINCT l.pid FROM pg_locks l"
            " JOIN pg_class c ON c.oid = l.relation JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = :name AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
            ") held WHERE pid <> pg_backend_pid()",
            name=name,
        )

    def _url(self, name: str) -> URL:
        options = self.server.query.get("options", "")
        given = options if isinstance(options, str) else " ".join(options)
        return self.server.update_query_dict({"options": f"{given} -csearch_path={name}".strip()})


class MysqlDatabases(SqlNamespaces):
    def _hold(self, session: str) -> None:
        self._run("SET SESSION wait_timeout = 604800")
        self._all("SELECT GET_LOCK(:name, 0)", name=f"{PREFIX}_{session}")

    def _is_dead(self, session: str) -> bool:
        return bool(self._all("SELECT IS_FREE_LOCK(:name)", name=f"{PREFIX}_{session}")[0])

    def _names(self) -> list[str]:
        return self._all(
            "SELECT schema_name FROM information_schema.schemata WHERE schema_name LIKE :like", like=f"{PREFIX}\\_%"
        )

    def _create(self, name: str) -> None:
        self._run(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")

    def _drop(self, name: str) -> None:
        for process in self._all("SELECT id FROM information_schema.processlist WHERE db = :name", name=name):
            with contextlib.suppress(Exception):  # it may have ended by itself meanwhile
                self._run(f"KILL {int(process)}")
        self._run(f"DROP DATABASE IF EXISTS {name}")

    def _url(self, name: str) -> URL:
        # Reading the certificates of this machine takes 50 ms of each connection: the server is a local one.
        url = self.server.set(database=name)
        return url.update_query_dict({"ssl_disabled": "true"}) if url.get_driver_name() == "pymysql" else url


# -- Redis


def _redis_client(url: str) -> Any:
    import redis

    # celery-types knows no redis, and a client of one connection is one that CLIENT LIST shows once.
    return redis.Redis.from_url(url, single_connection_client=True, socket_connect_timeout=3, decode_responses=True)


class RedisDatabase:
    """One of Redis' databases 1 to 15, taken for as long as the session lives.

    Its claim is a key in database 0 with the id of the session's connection. A claim whose connection is gone is
    anyone's.
    """

    CLAIM = """
        local holder = redis.call('GET', KEYS[1])
        if holder and holder ~= ARGV[1] then return 0 end
        redis.call('SET', KEYS[1], ARGV[2])
        return 1
    """

    def __init__(self, server: str) -> None:
        self._client = _redis_client(_with_path(server, "0"))
        self._me = self._holder(self._client.client_id())
        self._number = self._take()
        self.url = _with_path(server, str(self._number))

    def flush(self) -> None:
        with _redis_client(self.url) as client:
            client.flushdb()

    def close(self) -> None:
        self.flush()
        self._client.delete(self._key(self._number))
        self._client.close()

    def _take(self) -> int:
        living = {self._holder(client["id"]) for client in self._client.client_list()}
        for number in range(1, 16):
            holder = self._client.get(self._key(number))
            if holder not in living and self._client.eval(self.CLAIM, 1, self._key(number), holder or "", self._me):
                return number
        raise RuntimeError("All of Redis' databases 1 to 15 are taken by sessions of these tests that run now.")

    def _holder(self, client_id: object) -> str:
        return f"{self._client.info('server')['run_id']}:{client_id}"

    @staticmethod
    def _key(number: int) -> str:
        return f"{PREFIX}:database:{number}"


def _with_path(url: str, path: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{path}"))


# -- RabbitMQ


class RabbitmqVhost:
    """A vhost for the session, made by `rabbitmqctl`; where that can't be had, the vhost that the URL names.

    A vhost counts as left behind when nothing is connected to it and it is older than any session takes to connect.
    """

    MINUTES_TO_CONNECT = 10

    def __init__(self, server: str) -> None:
        self.url = server
        self.own = self._make(server)
        if self.own:
            self.url = _with_path(server, quote(self.own, safe=""))
        self._connection = BrokerConnection(self.url, heartbeat=0)
        self._connection.connect()

    def clear(self) -> None:
        """Delete the queues that earlier tests left. Not on a vhost that is not ours."""
        if not self.own:
            return
        for name in _rabbitmqctl("list_queues", "--no-table-headers", "--vhost", self.own, "name") or ():
            with self._connection.channel() as channel, contextlib.suppress(NotFound, ResourceLocked):
                Queue(name, channel=channel).delete()

    def close(self) -> None:
        self._connection.release()
        if self.own:
            _rabbitmqctl("delete_vhost", self.own)

    def _make(self, server: str) -> str | None:
        parts = urlsplit(server)
        if parts.hostname not in ("127.0.0.1", "::1", "localhost") or not shutil.which("rabbitmqctl"):
            return None
        vhosts = _rabbitmqctl("list_vhosts", "--no-table-headers", "name")
        if vhosts is None:
            return None
        self._drop_leftovers(vhosts)
        name = f"{PREFIX}_{int(time.time())}_{secrets.token_hex(4)}"
        if _rabbitmqctl("add_vhost", name) is None:
            return None
        everything = (".*", ".*", ".*")
        if _rabbitmqctl("set_permissions", "--vhost", name, parts.username or "guest", *everything) is None:
            _rabbitmqctl("delete_vhost", name)
            return None
        return name

    def _drop_leftovers(self, vhosts: list[str]) -> None:
        before = time.time() - 60 * self.MINUTES_TO_CONNECT
        ours = [name for name in vhosts if name.startswith(f"{PREFIX}_")]
        old = [name for name in ours if int(name.removeprefix(f"{PREFIX}_").partition("_")[0]) < before]
        connected = _rabbitmqctl("list_connections", "--no-table-headers", "vhost") if old else None
        if connected is None:
            return
        for name in old:
            if name not in connected:
                _rabbitmqctl("delete_vhost", name)


def _rabbitmqctl(*command: str) -> list[str] | None:
    """The lines it prints, or None where it can't be used (no rights, no cookie, another machine's broker)."""
    try:
        done = subprocess.run(
            ["rabbitmqctl", "--quiet", *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.splitlines()


# -- What a session keeps open


class Services:
    """The session's namespaces, each server's made when the first test asks for it."""

    def __init__(self) -> None:
        self._open = contextlib.ExitStack()

    def close(self) -> None:
        self._open.close()

    @functools.cached_property
    def postgresql(self) -> SqlNamespaces:
        return self._keep(PostgresqlSchemas(make_url(require(POSTGRESQL))))

    @functools.cached_property
    def mysql(self) -> SqlNamespaces:
        return self._keep(MysqlDatabases(make_url(require(MYSQL))))

    @functools.cached_property
    def redis(self) -> RedisDatabase:
        return self._keep(RedisDatabase(require(REDIS)))

    @functools.cached_property
    def rabbitmq(self) -> RabbitmqVhost:
        return self._keep(RabbitmqVhost(require(RABBITMQ)))

    def _keep(self, namespaces: Any) -> Any:
        self._open.callback(cast("Callable[[], None]", namespaces.close))
        return namespaces
