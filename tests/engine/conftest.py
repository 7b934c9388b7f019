from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_durable.store.store import Store

from .controls import KINDS, Starting, Undone, starting
from .driving import Driver


@pytest.fixture
def store(sqlite_url: str) -> Iterator[Store]:
    opened = Store(sqlite_url)
    opened.migrate()
    yield opened
    opened.engine.dispose()


@pytest.fixture
def started(store: Store) -> Callable[..., Driver]:
    """A run of a body, recorded and not yet executed; takes what a Driver takes."""

    def start(body: Callable[..., Any], **options: Any) -> Driver:
        driver = Driver(store, body, **options)
        driver.start()
        return driver

    return start


@pytest.fixture(params=KINDS)
def start(request: pytest.FixtureRequest, store: Store) -> Starting:
    """The same for a body that is written once, and is executed as both kinds of tasks."""
    return starting(store, request.param)


@pytest.fixture
def undone() -> Undone:
    return Undone()
