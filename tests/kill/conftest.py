"""What the tests of one database share: a file of them names it as ``DATABASE``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from celery_durable.store.store import Store
from tests.services import Services

pytest.register_assert_rewrite("tests.kill.dying", "tests.kill.matrix")

from .corpus import Notes  # noqa: E402
from .living import System  # noqa: E402
from .matrix import system_on  # noqa: E402


@pytest.fixture(scope="module")
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One store for all shapes, each run with an id of its own."""
    folder: Path = tmp_path_factory.mktemp("kill")
    if request.module.DATABASE == "sqlite":
        yield from _opened(f"sqlite:///{folder / 'durable.db'}", folder)
        return
    services = request.getfixturevalue("services")
    with getattr(services, request.module.DATABASE).fresh() as url:
        yield from _opened(url, folder)


def _opened(url: str, folder: Path) -> Iterator[Store]:
    store = Store(url)
    store.migrate()
    with store.engine.connect() as connection:
        connection.execute(text("CREATE TABLE effects (run_id VARCHAR(64), name VARCHAR(64))"))
    Notes.folder = folder / "notes"
    Notes.folder.mkdir()
    yield store
    store.engine.dispose()


@pytest.fixture(scope="module")
def system(
    request: pytest.FixtureRequest, services: Services, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """One system for all operations, which is put back for each."""
    with system_on(request.module.DATABASE, services, tmp_path_factory.mktemp("matrix")) as made:
        yield made
