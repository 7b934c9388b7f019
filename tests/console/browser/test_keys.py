"""The console by keyboard, and its colours by night."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from .conftest import Open


@pytest.fixture
def runs(open_page: Open) -> Page:
    return open_page("/")


def test_j_and_k_go_from_row_to_row_and_enter_opens_it(runs: Page) -> None:
    focused = runs.locator("#runs a:focus")
    runs.keyboard.press("j")
    expect(focused).to_have_text("order-new")
    runs.keyboard.press("j")
    runs.keyboard.press("j")
    expect(focused).to_have_text("order-4-fork")
    runs.keyboard.press("k")
    runs.keyboard.press("k")
    runs.keyboard.press("k")
    expect(focused).to_have_text("order-new")
    runs.keyboard.press("Enter")
    runs.wait_for_url("**/run/order-new")
    expect(runs.get_by_role("heading", level=1)).to_contain_text("order-new")


def test_a_slash_leads_to_the_search_and_in_it_keys_are_letters(runs: Page) -> None:
    runs.keyboard.press("/")
    search = runs.get_by_role("searchbox", name="Search")
    expect(search).to_be_focused()
    runs.keyboard.type("jk?.gr/")
    expect(search).to_have_value("jk?.gr/")
    expect(runs.get_by_role("dialog")).to_be_hidden()
    runs.keyboard.press("Escape")
    expect(search).not_to_be_focused()


@pytest.mark.parametrize(
    ("key", "path", "title"),
    [
        ("r", "/", "Runs"),
        ("e", "/events", "Events"),
        ("t", "/tasks", "Tasks"),
        ("w", "/workers", "Workers"),
        ("d", "/deeds", "Deeds"),
    ],
)
def test_g_and_a_letter_lead_to_each_page(open_page: Open, key: str, path: str, title: str) -> None:
    page = open_page("/run/order-new")
    page.keyboard.press("g")
    page.keyboard.press(key)
    page.wait_for_url(re.compile(rf"{re.escape(path)}$"))
    expect(page.get_by_role("heading", level=1)).to_contain_text(title)
    expect(page.get_by_role("navigation", name="Pages").locator("[aria-current]")).to_have_text(title)


def test_a_question_mark_shows_the_keys(runs: Page) -> None:
    runs.keyboard.press("?")
    shown = runs.get_by_role("dialog", name="Keys")
    expect(shown).to_be_visible()
    expect(shown).to_contain_text("hold the live updates")
    runs.keyboard.press("Escape")
    expect(shown).to_be_hidden()


def test_the_first_tab_leads_past_the_menu(runs: Page) -> None:
    runs.keyboard.press("Tab")
    skip = runs.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    runs.keyboard.press("Enter")
    runs.keyboard.press("Tab")
    assert runs.evaluate("document.querySelector('main').contains(document.activeElement)")


def ground(page: Page) -> Any:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_light_or_dark_is_as_the_system_has_it_until_somebody_switches_and_then_remembered(open_page: Open) -> None:
    page = open_page("/", color_scheme="dark")
    dark = ground(page)
    page.get_by_role("button", name="Light or dark").click()
    light = ground(page)
    assert light != dark
    page.reload()
    assert ground(page) == light
    page.get_by_role("link", name="Older").click()
    assert ground(page) == light
    page.get_by_role("button", name="Light or dark").click()
    assert ground(page) == dark
    assert ground(open_page("/", color_scheme="light")) == light
