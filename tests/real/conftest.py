"""A stage for each broker, with a database of its own and all of its processes ended afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from celery_durable.worker import runtime
from tests.real.stage import Stage
from tests.services import Services

DATABASES = {"redis": "postgresql", "rabbitmq": "mysql"}
"""Each broker is tried with another database; all pairs would say little more and take twice as long."""


def build(services: Services, folder: Path, broker: str, database: str, **config: Any) -> Iterator[Stage]:
    services.redis.flush()
    if broker == "rabbitmq":
        services.rabbitmq.clear()
    url = services.redis.url if broker == "redis" else services.rabbitmq.url
    with _database(services, folder, database) as database_url:
        runtime._runtimes.clear()  # one app for all stages, as one process has: it must see the new settings
        stage = Stage(folder, url, services.redis.url, database_url, **config)
        try:
            yield stage
        finally:
            stage.teardown()


def _database(services: Services, folder: Path, name: str) -> AbstractContextManager[str]:
    if name == "sqlite":
        return nullcontext(f"sqlite:///{folder / 'durable.db'}")
    found: AbstractContextManager[str] = getattr(services, name).fresh()
    return found


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def shared_stage(request: pytest.FixtureRequest, services: Services, tmp_path_factory: Any) -> Iterator[Stage]:
    """A stage for the tests of a module that leave each other alone, with two workers."""
    folder = tmp_path_factory.mktemp("stage")
    for stage in build(services, folder, request.param, DATABASES[request.param]):
        stage.start_workers("one", "two")
        yield stage


@pytest.fixture(params=["redis", "rabbitmq"])
def stage(request: pytest.FixtureRequest, services: Services, tmp_path: Path) -> Iterator[Stage]:
    """A stage of the test's own, without workers."""
    yield from build(services, tmp_path, request.param, DATABASES[request.param])
