"""What people and their errors say may hold characters that a database, or UTF-8, can't."""

from __future__ import annotations

from typing import Any

import pytest

from celery_durable import Retry, step
from celery_durable.client.views import deed_of, run_of
from celery_durable.core.ids import check_run_id
from celery_durable.engine.control import RunRetry
from celery_durable.errors import DurableError
from celery_durable.store.records import Deed
from celery_durable.store.store import Store
from tests.engine.driving import Driver

ODD = "\x00 \ud83d 🚀"
SHOWN = "\\x00 \\ud83d 🚀"


@pytest.fixture
def store(any_store: Store) -> Store:
    return any_store


def refuse() -> Any:
    raise ValueError(ODD)


def waiting_on(driver: Driver) -> str:
    return str(run_of(driver.run(), lambda value: value).waiting_on)


def test_an_error_with_a_character_that_no_database_holds_is_tried_again(store: Store) -> None:
    driver = Driver(store, lambda: step.options(retry=Retry(max_attempts=2)).run("bad", refuse))
    driver.start()
    driver.one_pass()
    assert waiting_on(driver) == f"attempt 2 of step 'bad', after ValueError: {SHOWN}"
    driver.let_time_pass()
    driver.one_pass()
    assert driver.run()["status"] == "failed"


def test_a_run_that_is_retried_says_why_in_any_characters(store: Store) -> None:
    def body() -> None:
        raise RunRetry(ValueError(ODD), 1)

    driver = Driver(store, body)
    driver.start()
    driver.one_pass()
    assert waiting_on(driver).endswith(f"after ValueError: {SHOWN}")


def test_a_reason_may_hold_any_character(store: Store) -> None:
    driver = Driver(store, lambda: step.sleep("1h"))
    driver.start()
    driver.one_pass()
    with store.link() as link:
        assert store.pause_by_hand(link, "r1", Deed("pause", ODD, ODD))
        (deed,) = map(deed_of, store.deeds(link, "r1"))
    assert (deed.actor, deed.reason) == (SHOWN, SHOWN)
    assert SHOWN in waiting_on(driver)


@pytest.mark.parametrize("run_id", ["a\x00b", "a\ud83db", "a\nb"])
def test_a_run_id_that_no_database_holds_is_refused(run_id: str) -> None:
    with pytest.raises(DurableError, match="can be printed"):
        check_run_id(run_id)
