"""The list of runs, as somebody uses it who looks for one."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from .conftest import Open, Troubles


@pytest.fixture
def runs(open_page: Open) -> Page:
    return open_page("/")


def rows(page: Page) -> Locator:
    return page.locator("#runs > tr")


def names(page: Page) -> list[str]:
    return page.locator("#runs .run-name a").all_inner_texts()


def tile(page: Page, status: str) -> Locator:
    return page.locator("#counts").get_by_role("link", name=re.compile(f"^{status}"))


def test_the_newest_runs_come_first_each_with_what_it_waits_for(runs: Page) -> None:
    expect(runs.get_by_role("heading", level=1)).to_have_text("Runs")
    first = rows(runs).first
    expect(first).to_contain_text("order-new")
    expect(first).to_contain_text("suspended")
    expect(first).to_contain_text("attempt 2 of step 'charge', after ConnectionError")
    expect(runs.locator("#run-order-12")).to_contain_text("the customer asked for it")
    expect(runs.locator("#run-order-16")).to_contain_text("paused: by ada: to be looked at first")


def test_times_are_told_as_how_long_ago_and_how_long_until(runs: Page) -> None:
    told = runs.locator("#run-order-new time")
    expect(told.nth(0)).to_have_text(re.compile(r"^(now|\d+s left)$"))
    # The runs are made once for all tests of a process, so it can have been a while ago.
    expect(told.nth(1)).to_have_text(re.compile(r"^(\d+h(\d+m)?|\d+m(\d+s)?) ago$"))
    expect(told.nth(1)).to_have_attribute("title", re.compile(r"\d{4}-\d\d-\d\d"))


def test_a_tile_shows_the_runs_of_its_status_a_second_one_adds_its_own_and_pressed_again_it_lets_go(runs: Page) -> None:
    tile(runs, "failed").click()
    expect(rows(runs)).to_have_count(3)
    expect(tile(runs, "failed")).to_have_attribute("aria-current", "true")
    tile(runs, "paused").click()
    expect(rows(runs)).to_have_count(4)
    tile(runs, "failed").click()
    expect(rows(runs)).to_have_count(1)
    assert names(runs) == ["order-16"]
    tile(runs, "all").click()
    expect(rows(runs)).to_have_count(50)


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("order-4-fork", ["order-4-fork"]),  # an id
        ("o-28", ["order-28"]),  # an input
        ("T-o-8", ["order-8"]),  # a result
        ("the customer asked", ["order-12"]),  # an error
    ],
)
def test_what_is_typed_is_found_in_ids_inputs_results_and_errors(runs: Page, what: str, found: list[str]) -> None:
    runs.get_by_role("searchbox", name="Search").fill(what)
    runs.keyboard.press("Enter")
    runs.wait_for_url(re.compile(r"search="))
    listed = [name for name in names(runs) if name.startswith("order-")]
    assert listed == found
    expect(runs.get_by_role("searchbox", name="Search")).to_have_value(what)


def test_filters_narrow_each_other_and_are_cleared_at_once(runs: Page) -> None:
    runs.get_by_label("Task").select_option("shop.order")
    runs.get_by_role("button", name="Find").click()
    expect(runs.get_by_label("Task")).to_have_value("shop.order")
    expect(rows(runs)).to_have_count(13)
    runs.get_by_label("Since").select_option("last hour")
    runs.get_by_role("button", name="Find").click()
    expect(rows(runs)).to_have_count(1)
    assert names(runs) == ["order-new"]
    tile(runs, "completed").click()
    expect(runs.get_by_text("No run is like that")).to_be_visible()
    expect(runs.get_by_label("Since")).to_have_value("1h")
    runs.get_by_role("link", name="Clear").click()
    expect(rows(runs)).to_have_count(50)


def test_further_filters_are_behind_more_and_stay_open_while_they_are_used(runs: Page) -> None:
    field = runs.get_by_label("Waiting on")
    expect(field).to_be_hidden()
    runs.get_by_text("More", exact=True).click()
    field.fill("order.approved")
    field.press("Enter")
    expect(runs.get_by_label("Waiting on")).to_be_visible()
    expect(rows(runs)).to_have_count(8)
    runs.get_by_label("Waiting on").fill("")
    runs.get_by_label("Took event").fill("approved-4")
    runs.get_by_role("button", name="Find").click()
    expect(rows(runs)).to_have_count(1)
    assert names(runs) == ["order-4"]
    runs.get_by_label("Took event").fill("")
    runs.get_by_label("Called by run").fill("order-4")
    runs.get_by_role("button", name="Find").click()
    expect(rows(runs)).to_contain_text(["shop.fraud_check"])


def test_older_runs_are_on_further_pages_which_keep_the_filters(open_page: Open) -> None:
    page = open_page("/?since=30d")
    expect(rows(page)).to_have_count(50)
    newest = names(page)
    expect(page.get_by_role("link", name="Newest")).to_have_count(0)
    page.get_by_role("link", name="Older").click()
    expect(rows(page)).to_have_count(23)
    assert not set(names(page)) & set(newest)
    expect(page.get_by_label("Since")).to_have_value("30d")
    expect(page.get_by_role("link", name="Older")).to_have_count(0)
    page.get_by_role("link", name="Newest").click()
    expect(rows(page)).to_have_count(50)
    assert names(page) == newest


def test_what_can_be_done_to_all_that_are_listed_is_offered_once_something_is_looked_for(runs: Page) -> None:
    expect(runs.locator("#bulk")).to_have_count(0)
    tile(runs, "failed").click()
    offered = runs.locator("#bulk")
    expect(offered.get_by_role("link")).to_have_text(["Retry …"])
    tile(runs, "paused").click()
    expect(offered.get_by_role("link")).to_have_text(["Cancel …", "Retry …", "Resume …"])


@pytest.mark.parametrize(
    ("query", "said"),
    [("status=gone", "There is no status 'gone'"), ("since=yesterday", "since: "), ("after=nonsense", "")],
)
def test_an_address_that_makes_no_sense_is_answered_with_what_is_wrong(
    open_page: Open, troubles: Troubles, query: str, said: str
) -> None:
    troubles.expect("400 .BAD REQUEST.")
    page = open_page(f"/?{query}")
    expect(page.get_by_role("heading", level=1)).to_have_text("Bad Request")
    expect(page.get_by_role("main")).to_contain_text(said)
    page.get_by_role("link", name="All runs").click()
    expect(rows(page)).to_have_count(50)
