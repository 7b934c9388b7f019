"""Pages that are looked at while things happen: they follow, and hold still under the eye."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from celery import Celery
from playwright.sync_api import Page, expect

from celery_durable import Durable
from celery_durable.console import Console

from .conftest import Open, Serve, Troubles
from .live import boxes, look_again
from .serving import Served


def begin(app: Celery, run_id: str) -> None:
    """A run that nobody executes."""
    app.tasks["shop.trial"].apply_async((run_id,), task_id=run_id)


@pytest.fixture
def runs(open_page: Open) -> Page:
    page = open_page("/")
    expect(page.locator("[data-live-sign]")).to_have_text("live")
    return page


def test_a_run_that_changes_changes_in_its_row_and_nothing_moves(runs: Page, durable: Durable) -> None:
    row, rows = runs.locator("#run-order-36"), runs.locator("#runs > tr")
    runs.evaluate("document.querySelector('#run-order-36').mine = true")
    tiles, lines = boxes(runs.locator("#counts > a")), boxes(rows)
    suspended = runs.locator("#counts").get_by_role("link", name=re.compile("^suspended"))
    expect(suspended).to_contain_text("16")

    durable.pause("order-36", reason="wait", by="bob")

    expect(row).to_contain_text("paused: by bob: wait")  # by itself: the page asks every two seconds
    expect(row.locator(".status")).to_have_text(re.compile("paused"))
    expect(suspended).to_contain_text("15")
    assert boxes(rows) == lines
    assert boxes(runs.locator("#counts > a")) == tiles
    assert runs.evaluate("document.querySelector('#run-order-36').mine") is True, "the row is another element now"


def test_a_new_run_comes_in_at_the_top(runs: Page, app: Celery) -> None:
    begin(app, "newcomer")
    look_again(runs)
    expect(runs.locator("#runs > tr").first).to_have_id("run-newcomer")
    expect(runs.locator("#runs > tr")).to_have_count(50)
    expect(runs.locator("#runs > tr").first).to_contain_text(re.compile(r"\ds ago"))


def test_new_runs_are_held_back_from_who_reads_further_down_and_shown_when_wanted(
    runs: Page, app: Celery, durable: Durable
) -> None:
    runs.locator("#run-order-16").scroll_into_view_if_needed()
    runs.mouse.wheel(0, 600)
    runs.wait_for_function("document.querySelector('#runs').getBoundingClientRect().top < 0")
    lines = boxes(runs.locator("#runs > tr"))

    begin(app, "newcomer")
    begin(app, "another")
    durable.resume("order-16", by="bob")
    look_again(runs)

    held = runs.get_by_role("button", name="2 new: show")
    expect(held).to_be_in_viewport()
    expect(runs.locator("#run-order-16")).not_to_contain_text("paused")
    assert boxes(runs.locator("#runs > tr")) == lines
    expect(runs.locator("#run-newcomer")).to_have_count(0)

    held.click()
    expect(runs.locator("#run-newcomer")).to_be_in_viewport()
    expect(runs.locator("#run-another")).to_be_visible()
    expect(held).to_be_hidden()


def test_new_runs_are_held_back_while_a_row_has_the_focus(runs: Page, app: Celery) -> None:
    runs.keyboard.press("j")
    focused = runs.locator("#runs a:focus")
    expect(focused).to_have_text("order-new")
    begin(app, "newcomer")
    look_again(runs)
    expect(runs.get_by_role("button", name="1 new: show")).to_be_visible()
    expect(focused).to_have_text("order-new")


def test_while_nothing_changes_nothing_is_sent(runs: Page, site: Served) -> None:
    look_again(runs)
    before = len(site.answered)
    answers = [look_again(runs).status for _ in range(3)]
    assert answers == [304, 304, 304]
    assert set(site.answered[before:]) == {("/", 304)}


def test_a_console_that_does_not_answer_is_told_and_looked_for_again(
    runs: Page, site: Served, durable: Durable, troubles: Troubles
) -> None:
    troubles.expect("ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE")
    sign = runs.locator("[data-live-sign]")
    lines = boxes(runs.locator("#runs > tr"))
    site.stop()
    expect(sign).to_have_text("no answer")
    assert boxes(runs.locator("#runs > tr")) == lines
    durable.pause("order-36", by="bob")
    site.start()
    expect(sign).to_have_text("live", timeout=20_000)
    expect(runs.locator("#run-order-36")).to_contain_text("paused")


def test_live_updates_are_held_and_let_go_on_by_a_key(runs: Page, durable: Durable) -> None:
    sign = runs.locator("[data-live-sign]")
    runs.keyboard.press(".")
    expect(sign).to_have_text("held")
    durable.pause("order-36", by="bob")
    asked: list[str] = []
    runs.on("request", lambda request: asked.append(request.url))
    runs.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    assert asked == []
    expect(runs.locator("#run-order-36")).not_to_contain_text("paused")
    runs.keyboard.press(".")
    expect(runs.locator("#run-order-36")).to_contain_text("paused")
    expect(sign).to_have_text("live")


def test_who_is_signed_out_elsewhere_is_told(
    make: Callable[..., Celery], serve: Serve, open_page: Open, troubles: Troubles
) -> None:
    site = serve(Console(make(durable_console_tokens={"ada": "a-token-of-sixteen"})))
    page = open_page(None, others=(site.url,))
    page.goto(f"{site.url}/?status=failed")
    page.get_by_label("Token").fill("a-token-of-seventeen")
    troubles.expect("403 .FORBIDDEN.")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("That is no token of this console.")
    page.get_by_label("Token").fill("a-token-of-sixteen")
    page.keyboard.press("Enter")
    expect(page.locator("#runs > tr")).to_have_count(3)
    expect(page.locator(".who")).to_have_text("ada")

    page.context.clear_cookies()
    troubles.expect("401 .UNAUTHORIZED.")
    look_again(page)
    expect(page.locator("[data-live-sign]")).to_have_text("signed out")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
