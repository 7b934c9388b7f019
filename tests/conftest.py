"""Databases and brokers for tests: each fixture is the URL of an empty place that the test has for itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_durable.store.store import Store
from tests.alone import nothing_shared
from tests.services import Services


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    opened = Services()
    yield opened
    opened.close()


@pytest.fixture
def no_shared_tasks() -> Iterator[None]:
    """An app of this test has no task that the module of another one shares with all apps."""
    with nothing_shared():
        yield


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Each database in turn."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def any_store(database_url: str) -> Iterator[Store]:
    """An empty store, on each database in turn."""
    opened = Store(database_url)
    opened.migrate()
    yield opened
    opened.engine.dispose()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'durable.db'}"


@pytest.fixture
def postgresql_url(services: Services) -> Iterator[str]:
    with services.postgresql.fresh() as url:
        yield url


@pytest.fixture
def mysql_url(services: Services) -> Iterator[str]:
    with services.mysql.fresh() as url:
        yield url


@pytest.fixture
def redis_url(services: Services) -> str:
    """A database of the session's own, empty."""
    services.redis.flush()
    return services.redis.url


@pytest.fixture
def rabbitmq_url(services: Services) -> str:
    """A vhost of the session's own without queues; the vhost that all share where one can't be made."""
    services.rabbitmq.clear()
    return services.rabbitmq.url
