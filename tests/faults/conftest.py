from __future__ import annotations

from collections.abc import Iterator

import pytest

from celery_durable.store.store import Store

from .wire import Wire


class Faulty:
    """A store behind a wire, and its server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.wire = Wire(url)
        self.direct = Store(url)
        self.direct.migrate()
        self.store = Store(self.wire.url)

    def close(self) -> None:
        self.store.engine.dispose()
        self.direct.engine.dispose()
        self.wire.cut()


@pytest.fixture(scope="module", params=["postgresql", "mysql"])
def faulty(request: pytest.FixtureRequest) -> Iterator[Faulty]:
    """One for all cases of a module: each has a scene of its own."""
    services = request.getfixturevalue("services")
    with getattr(services, request.param).fresh() as url:
        opened = Faulty(url)
        yield opened
        opened.close()
