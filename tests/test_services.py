"""What the fixtures hand out works, is empty, and is gone afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from kombu import Connection as BrokerConnection
from sqlalchemy import Connection, Engine, create_engine, inspect, text

from tests.services import (
    MYSQL,
    POSTGRESQL,
    RABBITMQ,
    REDIS,
    RedisDatabase,
    Service,
    Services,
    SqlNamespaces,
    _redis_client,
    require,
    trouble,
)
from tests.waiting import wait_until


@contextmanager
def connected(url: str) -> Iterator[Connection]:
    engine: Engine = create_engine(url)
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


@pytest.fixture(params=["postgresql", "mysql"])
def namespaces(request: pytest.FixtureRequest, services: Services) -> SqlNamespaces:
    made: SqlNamespaces = getattr(services, request.param)
    return made


# -- Databases


@pytest.mark.parametrize("turn", ["first", "second"])
def test_a_database_is_empty_and_keeps_what_is_written(database_url: str, turn: str) -> None:
    with connected(database_url) as connection:
        assert inspect(connection).get_table_names() == []
        connection.execute(text("CREATE TABLE thing (id INTEGER PRIMARY KEY, name VARCHAR(20))"))
        connection.execute(text("INSERT INTO thing VALUES (1, :name)"), {"name": "naïve 🙂"})

    with connected(database_url) as connection:
        assert inspect(connection).get_table_names() == ["thing"]
        assert connection.execute(text("SELECT name FROM thing")).scalar_one() == "naïve 🙂"


def test_namespaces_do_not_see_each_other(namespaces: SqlNamespaces) -> None:
    with namespaces.fresh() as one, namespaces.fresh() as other:
        with connected(one) as connection:
            connection.execute(text("CREATE TABLE thing (id INTEGER PRIMARY KEY)"))
        with connected(other) as connection:
            assert not inspect(connection).has_table("thing")


def test_a_namespace_is_dropped_also_when_a_transaction_still_holds_it(namespaces: SqlNamespaces) -> None:
    with namespaces.fresh() as url:
        held = create_engine(url).connect()
        held.execute(text("CREATE TABLE thing (id INTEGER PRIMARY KEY)"))
        held.commit()
        held.execute(text("INSERT INTO thing VALUES (1)"))
    held.invalidate()

    assert [name for name in namespaces._names() if f"_{namespaces.session}_" in name] == []


def test_a_namespace_is_cheap(namespaces: SqlNamespaces) -> None:
    started = time.monotonic()
    for _ in range(10):
        with namespaces.fresh():
            pass
    assert time.monotonic() - started < 5


def test_what_a_killed_session_left_is_dropped_and_what_a_living_one_has_is_not(namespaces: SqlNamespaces) -> None:
    kind = type(namespaces)
    script = f"""if True:
        import sys, time
        from tests.services import {kind.__name__}, make_url
        namespaces = {kind.__name__}(make_url(sys.argv[1]))
        with namespaces.fresh():
            print(namespaces.session, flush=True)
            time.sleep(60)
    """
    server = namespaces.server.render_as_string(hide_password=False)

    def names_after_a_start() -> list[str]:
        another = kind(namespaces.server)
        another.close()
        return [name for name in namespaces._names() if f"_{session}_" in name]

    with running(script, server) as (process, session):
        assert len(names_after_a_start()) == 1
        process.kill()
        process.wait()
        wait_until(lambda: not names_after_a_start(), message="the killed session's namespace is still there")


# -- Brokers


@pytest.mark.parametrize("turn", ["first", "second"])
def test_a_redis_database_is_empty_and_keeps_what_is_written(redis_url: str, turn: str) -> None:
    with _redis_client(redis_url) as client:
        assert client.dbsize() == 0
        client.set("thing", "1")
        assert client.get("thing") == "1"
        assert client.connection_pool.connection_kwargs["db"] in range(1, 16)


def test_sessions_side_by_side_take_different_redis_databases(services: Services) -> None:
    other = RedisDatabase(require(REDIS))
    try:
        assert other.url != services.redis.url
    finally:
        other.close()


def test_the_redis_database_of_a_killed_session_is_free_again(services: Services) -> None:
    script = """if True:
        import sys, time
        from tests.services import RedisDatabase
        database = RedisDatabase(sys.argv[1])
        print(database.url, flush=True)
        time.sleep(60)
    """

    def free() -> set[str]:
        with ExitStack() as held, suppress(RuntimeError):  # which says that all are taken
            urls = set()
            while True:
                database = RedisDatabase(require(REDIS))
                held.callback(database.close)
                urls.add(database.url)
        return urls

    with running(script, require(REDIS)) as (process, url):
        assert url not in free()
        process.kill()
        process.wait()
        wait_until(lambda: url in free(), message="the killed session still holds its database")


@pytest.mark.parametrize("turn", ["first", "second"])
def test_rabbitmq_carries_a_message(rabbitmq_url: str, turn: str) -> None:
    with BrokerConnection(rabbitmq_url) as connection, connection.SimpleQueue("durable-test-queue") as queue:
        assert queue.qsize() == 0, "what the first turn left behind is gone"
        queue.put({"n": 1})
        queue.put({"n": 2})
        message = queue.get(timeout=5)
        assert message.payload == {"n": 1}
        message.ack()


# -- A service that is not there


@pytest.fixture
def missing() -> Service:
    def refuse(url: str) -> None:
        raise ConnectionRefusedError("connection refused\nand many more lines")

    return Service("Nothing", "DURABLE_TEST_NOTHING", "nothing://me:secret@127.0.0.1:1/x", refuse)


@pytest.mark.parametrize(
    ("ci", "outcome"),
    [("", pytest.skip.Exception), ("false", pytest.skip.Exception), ("true", pytest.fail.Exception)],
)
def test_a_missing_service_skips_and_in_ci_fails(
    missing: Service, ci: str, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome) as ended:
        require(missing)
    assert str(ended.value) == (
        "Nothing does not answer at nothing://me:***@127.0.0.1:1/x: start it, or set DURABLE_TEST_NOTHING"
        " (connection refused)"
    )


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("DURABLE_TEST_POSTGRESQL", "postgresql+psycopg://postgres@127.0.0.1:1/test"),
        ("DURABLE_TEST_MYSQL", "mysql+pymysql://root@127.0.0.1:1/test"),
        ("DURABLE_TEST_REDIS", "redis://127.0.0.1:1"),
        ("DURABLE_TEST_RABBITMQ", "amqp://guest:guest@127.0.0.1:1"),
    ],
)
def test_a_closed_port_is_found_out(variable: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {service.variable: service for service in (POSTGRESQL, MYSQL, REDIS, RABBITMQ)}[variable]
    monkeypatch.setenv(variable, url)
    service = Service(found.name, variable, found.default, lambda url: found.connect(url))  # not the session's answer
    assert f"{found.name} does not answer at" in (trouble(service) or "")


# -- Waiting


def test_wait_until_returns_the_first_true_value() -> None:
    values: Iterator[object] = iter([None, 0, [], "there", "later"])
    assert wait_until(lambda: next(values)) == "there"


def test_wait_until_fails_with_the_message_and_the_last_value() -> None:
    with pytest.raises(pytest.fail.Exception, match=r"no run came: after 0\.05 s the last value was \[\]"):
        wait_until(list, 0.05, "no run came")


@contextmanager
def running(script: str, *args: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Python process and the first line it printed."""
    with subprocess.Popen([sys.executable, "-c", script, *args], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()
