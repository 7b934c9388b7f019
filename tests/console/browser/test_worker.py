"""The console of the command line beside a real worker: what somebody does here happens there, and is seen here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.web.processes import Process, free_port

from .conftest import Troubles

PATIENCE = 30_000


@pytest.fixture
def console(tmp_path: Path, postgresql_url: str, redis_url: str) -> Iterator[str]:
    """Where the console is."""
    environment = {"PACKING_DATABASE": postgresql_url, "PACKING_BROKER": redis_url}
    port = free_port()
    packing = ("celery", "-A", "tests.console.browser.packing")
    options = ("--loglevel", "INFO", "--pool", "threads", "--concurrency", "2", "--without-gossip", "--without-mingle")
    Process("migrate", tmp_path, environment, *packing, "durable", "migrate").process.wait(30)
    worker = Process("worker", tmp_path, environment, *packing, "worker", *options)
    served = Process("console", tmp_path, environment, *packing, "durable", "console", "--port", str(port))
    try:
        served.wait_for_port(port)
        worker.wait_for_line(r"\bready\.")
        yield f"http://127.0.0.1:{port}"
    finally:
        served.stop()
        worker.stop()


@pytest.fixture
def page(browser: Browser, console: str, troubles: Troubles) -> Iterator[Page]:
    context = browser.new_context(base_url=console)
    context.set_default_timeout(PATIENCE)
    troubles.watch(context, console)
    yield context.new_page()
    context.close()
    troubles.check()


def start(page: Page, order: str) -> None:
    page.goto("/tasks")
    page.get_by_role("link", name="Start packing.parcel").click()
    page.get_by_label("order").fill(order)
    page.get_by_label("items").fill("3")
    page.get_by_label("Id of the run").fill(f"parcel-{order}")
    page.get_by_role("button", name="Start the run").click()
    page.wait_for_url(f"**/run/parcel-{order}")


def test_a_run_is_started_watched_answered_and_seen_to_its_end_and_another_is_cancelled(page: Page) -> None:
    start(page, "o-1")
    status, now = page.locator("#run-status"), page.locator("#run-now")
    expect(status).to_contain_text("suspended", timeout=PATIENCE)  # nobody has loaded the page again
    expect(now).to_contain_text("Is the parcel of o-1 whole?")
    expect(page.locator("#run-view")).to_contain_text("pack")

    page.get_by_role("link", name="Answer").click()
    page.get_by_label("weight").fill("2.5")
    page.get_by_role("group", name="whole").get_by_label("yes").check()
    page.get_by_role("button", name="Send the answer").click()
    page.wait_for_url("**/run/parcel-o-1")
    expect(status).to_contain_text("completed", timeout=PATIENCE)
    expect(now).to_contain_text("o-1: 3 items of 2.5 kg are on their way")
    page.get_by_role("link", name="Timeline").click()
    expect(page.locator("#run-view")).to_contain_text("send")

    start(page, "o-2")
    expect(status).to_contain_text("suspended", timeout=PATIENCE)
    page.get_by_role("link", name="Cancel").click()
    page.get_by_label("Why").fill("ordered twice")
    page.get_by_role("button", name="Cancel this run").click()
    page.wait_for_url("**/run/parcel-o-2")
    expect(status).to_contain_text("cancelled", timeout=PATIENCE)
    expect(now).to_contain_text("ordered twice")

    page.get_by_role("link", name="Workers").click()
    expect(page.locator("#figure-sweeper .gauge-value")).to_have_text(re.compile(r"/\d+/"))  # a host, a process
