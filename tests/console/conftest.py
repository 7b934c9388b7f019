from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from werkzeug.test import Client

from celery_durable import Durable
from celery_durable.console import Console

from .seeding import seed
from .shop import shop


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with two days of the shop, to be copied."""
    path = tmp_path_factory.mktemp("console") / "seeded.db"
    seed(path)
    return path


@pytest.fixture
def database(seeded: Path, tmp_path: Path) -> Path:
    """The same, for one test."""
    return Path(shutil.copy(seeded, tmp_path / "shop.db"))


@pytest.fixture
def make(database: Path) -> Callable[..., Celery]:
    """The shop on that database, with other settings."""
    return lambda **settings: shop(f"sqlite:///{database}", **settings)


@pytest.fixture
def app(make: Callable[..., Celery]) -> Celery:
    return make()


@pytest.fixture
def durable(app: Celery) -> Durable:
    return Durable(app)


@pytest.fixture
def client(app: Celery) -> Client:
    """A browser without a screen, of somebody who is called ada."""
    return Client(Console(app, identify=lambda request: "ada"))


def mark_of(page: Any) -> str:
    """What the forms of a page send along."""
    text = page.get_data(as_text=True)
    return str(text.partition('name="mark" value="')[2].partition('"')[0])
