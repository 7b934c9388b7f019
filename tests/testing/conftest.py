"""An app whose broker and result backend answer nobody, and an environment that it takes part in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery

from celery_durable import DurableTask
from celery_durable.testing import DurableEnv

Declare = Callable[..., Any]


def new_app(name: str = "kit") -> Any:
    """Nothing is contacted: there is no such host."""
    return Celery(name, broker="redis://nowhere:1", backend="redis://nowhere:1", set_as_current=False)


@pytest.fixture
def app() -> Any:
    return new_app()


@pytest.fixture
def env(app: Any) -> Iterator[DurableEnv]:
    with DurableEnv(app) as opened:
        yield opened


@pytest.fixture
def durable(app: Any) -> Declare:
    """A decorator: a durable task of the app, named after the function."""

    def declare(body: Any = None, **options: Any) -> Any:
        def make(function: Any) -> Any:
            return app.task(**{"shared": False, "base": DurableTask, "name": function.__name__} | options)(function)

        return make if body is None else make(body)

    return declare


@pytest.fixture
def ordinary(app: Any) -> Declare:
    """A decorator: an ordinary task of the app."""

    def declare(body: Any = None, **options: Any) -> Any:
        def make(function: Any) -> Any:
            return app.task(**{"shared": False, "name": function.__name__} | options)(function)

        return make if body is None else make(body)

    return declare
