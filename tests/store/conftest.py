from __future__ import annotations

from collections.abc import Iterator

import pytest

from celery_durable.store.link import Link
from celery_durable.store.store import Store


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """An empty store, on each database in turn."""
    opened = Store(database_url)
    opened.migrate()
    yield opened
    opened.engine.dispose()


@pytest.fixture
def link(store: Store) -> Iterator[Link]:
    with store.link() as opened:
        yield opened
