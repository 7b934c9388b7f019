"""An async body that blocks its event loop is told of, while it lasts."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator

import pytest

from celery_durable.engine import watching
from celery_durable.store.store import Store

from .driving import Driver


class Seen(logging.Handler):
    """Releases a body once a warning about it was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()
        self.message = ""

    def emit(self, record: logging.LogRecord) -> None:
        if "blocked its event loop" in record.getMessage():
            self.message = record.getMessage()
            self.told.set()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Seen]:
    handler = Seen()
    caplog.set_level(logging.WARNING, "celery_durable")  # whatever a worker in this process has made of the root logger
    monkeypatch.setattr(watching, "TELL_AFTER", 0.2)
    logging.getLogger("celery_durable").addHandler(handler)
    yield handler
    logging.getLogger("celery_durable").removeHandler(handler)


def test_a_body_that_blocks_is_told_of_with_its_place(store: Store, seen: Seen) -> None:
    async def body() -> bool:
        return seen.told.wait(30)

    driver = Driver(store, body)
    driver.start()
    assert driver.value() is True
    assert "run r1" in seen.message
    assert "wait" in seen.message


def test_a_loop_that_waits_is_not_blocked(store: Store, seen: Seen) -> None:
    async def body() -> None:
        await asyncio.sleep(0.7)

    driver = Driver(store, body)
    driver.start()
    driver.value()
    assert not seen.told.is_set()
