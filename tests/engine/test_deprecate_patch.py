"""``step.deprecate_patch``: the old side of a change is removed from the code."""

from __future__ import annotations

from typing import Any

import pytest

from celery_durable.engine.executor import Parked
from celery_durable.store.records import Deed

from .controls import Starting
from .test_patched import Deploy, before_the_change


async def with_both_sides(step: Any) -> str:
    found = "new" if await step.patched("change") else "old"
    await step.sleep("nap", "1h")
    await step.sleep("last", "1h")
    return found


async def with_the_new_side(step: Any) -> str:
    await step.deprecate_patch("change")
    await step.sleep("nap", "1h")
    await step.sleep("last", "1h")
    return "new"


@pytest.mark.parametrize("begins", [0, 1])
def test_runs_on_the_new_side_go_on_without_the_old_one(start: Starting, begins: int) -> None:
    deploy = Deploy(with_both_sides, with_the_new_side, before_the_change)
    driver = start(deploy)
    deploy.number = begins
    driver.parks()
    deploy.number = 1
    driver.let_time_pass()
    driver.parks()
    deploy.number = 2  # and without any of it
    driver.let_time_pass()
    assert driver.value() == "old"
    assert driver.kinds()[0] == ("patched:change", "patched")


def test_a_run_that_needs_the_old_side_is_paused_until_it_is_there(
    start: Starting, caplog: pytest.LogCaptureFixture
) -> None:
    deploy = Deploy(before_the_change, with_the_new_side, with_both_sides)
    driver = start(deploy)
    driver.parks()
    deploy.number = 1
    driver.let_time_pass()
    ended = driver.one_pass()
    assert isinstance(ended, Parked)
    assert ended.status == "paused"
    run = driver.run()
    assert (run["status"], run["due_at"]) == ("paused", None)
    assert run["waiting_on"].startswith("code: run r1 was past the change 'change'")
    assert "step.patched" in ended.waiting_on
    assert "is paused" in caplog.text
    deploy.number = 2
    with driver.store.link() as link:
        assert driver.store.resume_by_hand(link, "r1", Deed("resume", "a person"))
    assert driver.value() == "old"
