"""Databases and brokers for tests: each fixture is the URL of an empty place that the test has for itself."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from celery_durable.store import schema
from celery_durable.store.store import Store
from tests.alone import nothing_shared
from tests.migrating import by_alembic, migrations_again
from tests.services import Services

# In CI the same examples each time: what others would find is no matter of the change that is looked at.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI") == "true":
    settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def quick_migrations() -> Iterator[None]:
    with migrations_again():
        yield


@pytest.fixture
def real_migrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the tests of migrations."""
    monkeypatch.setattr(schema, "upgrade", by_alembic)


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


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
    """What the tests of odd texts print or fail with has half characters, which pytest-xdist can't hand over."""
    return _sendable((yield))


def _sendable(report: Any) -> Any:
    if isinstance(report, str):
        return report.encode("utf-8", "backslashreplace").decode()
    if isinstance(report, (list, tuple)):
        return type(report)(map(_sendable, report))
    if isinstance(report, dict):
        return {_sendable(name): _sendable(value) for name, value in report.items()}
    return report
