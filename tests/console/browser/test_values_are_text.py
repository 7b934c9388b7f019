"""Values that would be programs: none of them becomes a part of a page."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import quote, urldefrag, urlsplit

import pytest
from celery import Celery
from playwright.sync_api import Page, expect

from celery_durable import Durable
from tests.console.hostile import BITE, RUN, WAITING, hostile_shop, seed_hostile

from .conftest import Open, Troubles
from .live import look_again
from .serving import Served


@pytest.fixture(scope="session")
def hostile_seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("console") / "hostile.db"
    seed_hostile(path)
    return path


@pytest.fixture
def app(hostile_seeded: Path, tmp_path: Path) -> Celery:
    return hostile_shop(f"sqlite:///{shutil.copy(hostile_seeded, tmp_path / 'hostile.db')}")


def bites(page: Page) -> list[str]:
    """Signs that something of a value has become a part of the page."""
    signs: list[str] = page.evaluate("""() => [
        ...(window.bitten ? ["a script of a value has run"] : []),
        ...[...document.querySelectorAll('[onerror], img[src="x"], [href^="javascript:"], body script')].map(
            (element) => `an element of a value: ${element.outerHTML.slice(0, 200)}`),
    ]""")
    if "49" in page.title() or page.get_by_text("'49", exact=False).count():
        signs.append("a value has become a part of a template")
    return signs


def links(page: Page, site: Served) -> list[str]:
    """Pages of the console that this one leads to."""
    found: list[str] = page.eval_on_selector_all("a[href]", "(all) => all.map((link) => link.href)")
    return [urldefrag(url).url for url in found if url.startswith(f"{site.url}/")]


def kind(url: str) -> tuple[str, ...]:
    """Pages that differ by an id, or by what stands behind the question mark, are of one kind."""
    parts = urlsplit(url)
    names = tuple("~" if part.startswith("~") or not part.isalpha() else part for part in parts.path.split("/"))
    asked = sorted({pair.partition("=")[0] for pair in parts.query.split("&")})
    return (*names, *asked)


def test_no_value_becomes_a_part_of_a_page_wherever_links_lead(page: Page, site: Served) -> None:
    """A few pages of each kind that there is, each found by a link on another."""
    waiting, seen = [f"{site.url}/"], set()
    visited: dict[tuple[str, ...], int] = {}
    while waiting:
        url = waiting.pop(0)
        if url in seen or visited.get(kind(url), 0) >= 4 or urlsplit(url).path.endswith(".json"):
            continue
        seen.add(url)
        visited[kind(url)] = visited.get(kind(url), 0) + 1
        page.goto(url)
        assert not bites(page), f"{url}: {bites(page)}"
        waiting += links(page, site)
    assert len(visited) > 3, visited


def test_nor_when_it_comes_while_somebody_looks(open_page: Open, durable: Durable, site: Served) -> None:
    page = open_page("/")
    durable.cancel(WAITING, reason=f"late {BITE}", by=BITE)
    durable.replay(RUN, task_id=f"{BITE} again")
    look_again(page)
    expect(page.get_by_role("link", name=f"{BITE} again")).to_be_visible()
    expect(page.locator("#runs")).to_contain_text(BITE)
    assert not bites(page)


def test_nor_when_it_is_typed_into_a_filter(open_page: Open) -> None:
    page = open_page("/")
    for field in ("Waiting on", "Called by run", "Took event", "Search"):
        if field == "Waiting on":
            page.get_by_text("More", exact=True).click()
        page.get_by_label(field).fill(BITE)
    page.get_by_role("button", name="Find").click()
    page.wait_for_url("**search=**")
    expect(page.get_by_label("Search")).to_have_value(BITE)
    assert not bites(page)


@pytest.mark.parametrize("path", ["/{bite}", "/run/{bite}", "/?status={bite}", "/?since={bite}", "/?after={bite}"])
def test_nor_when_a_link_brings_it(page: Page, troubles: Troubles, site: Served, path: str) -> None:
    troubles.expect("4.. ")
    page.goto(path.format(bite=quote(BITE, safe="")))
    expect(page.get_by_role("main")).to_be_visible()
    assert not bites(page)
