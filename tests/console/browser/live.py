"""Looking on while something happens."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Locator, Page, Response

__all__ = ["boxes", "look_again"]


def look_again(page: Page) -> Response:
    """Let the page ask what has become, as it does whenever somebody comes back to it; what it was answered."""
    with page.expect_response(lambda response: response.request.resource_type == "fetch") as asked:
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    return asked.value


def boxes(elements: Locator) -> Any:
    """Where elements are, and how large."""
    script = """(all) => Object.fromEntries(all.map((element, place) => {
        const {x, y, width, height} = element.getBoundingClientRect();
        return [element.id || place, [x, y, width, height].map(Math.round)];
    }))"""
    return elements.evaluate_all(script)
