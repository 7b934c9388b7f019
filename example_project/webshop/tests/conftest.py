from __future__ import annotations

import pytest
from celery import Celery

from example_project.webshop.celery import app


@pytest.fixture
def durable_app() -> Celery:
    """Of ``durable_env``: the app that takes part from the beginning, also where a view starts its tasks."""
    return app


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the views send stays in this process. The processes of test_live.py have a broker of their own."""
    monkeypatch.setattr(app.conf, "broker_url", "memory://")
