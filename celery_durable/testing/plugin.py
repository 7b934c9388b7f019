"""The pytest plugin: the fixture ``durable_env``. Nothing of Celery is imported before a test asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from celery_durable.testing import DurableEnv

_ENV = pytest.StashKey["DurableEnv"]()


@pytest.fixture
def durable_app() -> Any:
    """The Celery app that takes part in ``durable_env`` from the beginning: the current one, if it has durable tasks.
    To be overridden where it is another one; ``None``: the app of the first task that is started."""
    from celery_durable.testing.apps import usual_app

    return usual_app()


@pytest.fixture
def durable_env(request: pytest.FixtureRequest, durable_app: Any) -> Iterator[DurableEnv]:
    """Durable tasks without a broker, a worker and waiting: see ``celery_durable.testing.DurableEnv``."""
    from celery_durable.testing import DurableEnv

    env = request.node.stash[_ENV] = DurableEnv(durable_app)
    yield env
    env.close()


@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Once the test itself has passed: a mock that was for nothing fails it."""
    env = item.stash.get(_ENV, None)
    if env is not None:
        env.mocks.check_used()
