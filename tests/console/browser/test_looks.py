"""Every page, for eyes that are weak, screens that are small, and hands that use no mouse."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from celery import Celery
from playwright.sync_api import Page

from tests.console.scenery import busy_shop, seed_busy

from .conftest import Open, Troubles
from .looks import NARROW, WIDE, complaints, nameless
from .places import PLACES, REFUSED


@pytest.fixture(scope="session")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("console") / "busy.db"
    seed_busy(path)
    return path


@pytest.fixture
def app(busy: Path, tmp_path: Path) -> Celery:
    """The shop on a busy day, which has something of everything."""
    return busy_shop(f"sqlite:///{shutil.copy(busy, tmp_path / 'busy.db')}")


def look_at(page: Page) -> list[str]:
    """All that is wrong with a page, light and dark, wide and narrow."""
    found = complaints(page, "headings", "twice") + nameless(page)
    for width in (NARROW, WIDE):
        page.set_viewport_size({"width": width, "height": 800})
        found += [f"{width}: {said}" for said in complaints(page, "wide")]
    # All of it is in view, so that what lies behind each text can be asked for.
    page.set_viewport_size({"width": WIDE, "height": page.evaluate("document.documentElement.scrollHeight")})
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found += [f"{scheme}: {said}" for said in complaints(page, "pale")]
    page.keyboard.press("Tab")
    return found + complaints(page, "unmarked")


@pytest.mark.parametrize("path", PLACES.values(), ids=PLACES)
def test_a_page_can_be_read_and_used_by_all(open_page: Open, path: str) -> None:
    found = look_at(open_page(path))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", REFUSED.values(), ids=REFUSED)
def test_so_can_a_refusal(open_page: Open, troubles: Troubles, path: str) -> None:
    troubles.expect("4.. ")
    found = look_at(open_page(path))
    assert not found, "\n".join(found)


def test_so_can_the_keys(open_page: Open) -> None:
    page = open_page("/")
    page.keyboard.press("?")
    found = look_at(page)
    assert not found, "\n".join(found)


def test_what_these_tests_would_find(page: Page) -> None:
    """The script that looks at pages, looked at itself."""
    page.goto("/")
    page.evaluate("""
        document.querySelector("main").innerHTML = `
            <h1>One</h1> <h1>Two</h1> <p class="a" id="runs">grey on grey</p> <p id="runs">black on white</p>
            <div class="bar"><span class="on-bar">on a bar</span></div> <button></button> <div class="broad">broad</div>
            <a href="/" class="unmarked">no outline</a> <p class="half">faded</p> <svg width="200" height="40">
            <rect width="200" height="40" class="dark"></rect><text x="10" y="20" class="drawn">drawn</text></svg>`;
        const style = (name, value) => Object.assign(document.querySelector(`.${name}`).style, value);
        style("a", {color: "#999", background: "#bbb"});
        style("bar", {position: "relative", background: "#fff", height: "30px"});
        style("on-bar", {position: "absolute", color: "#fff"});
        style("broad", {width: "3000px"});
        style("unmarked", {outline: "none", color: "#000", background: "#fff"});
        style("half", {opacity: ".3", color: "#000", background: "#fff"});
        style("dark", {fill: "#111"});
        style("drawn", {fill: "#222"});
    """)
    page.emulate_media(color_scheme="light")
    page.keyboard.press("Tab")
    found = complaints(page, "headings", "twice", "wide", "pale", "unmarked") + nameless(page)
    expected = [
        "2 headings of the first level",
        "two elements have the id runs",
        "pixels wide on a screen of 1280",
        '<p.a> "grey on grey" has a contrast of 1.',
        '<span.on-bar> "on a bar" has a contrast of 1.00',
        '<p.half> "faded" has a contrast of 2.',
        '<text.drawn> "drawn" has a contrast of 1.',
        '<a.unmarked> "no outline" does not show that it has the focus',
        "a button has no name",
    ]
    missed = [wanted for wanted in expected if not any(wanted in said for said in found)]
    assert not missed, f"missed: {missed}, found: {found}"
    assert not any("black on white" in said and "contrast" in said for said in found)
