from __future__ import annotations

from collections.abc import Iterator

import pytest

from celery_durable.store.link import Link
from celery_durable.store.store import Store

from .operating import Clerk


@pytest.fixture
def store(any_store: Store) -> Store:
    return any_store


@pytest.fixture
def link(store: Store) -> Iterator[Link]:
    with store.link() as opened:
        yield opened


@pytest.fixture
def clerk(store: Store) -> Clerk:
    return Clerk(store)
