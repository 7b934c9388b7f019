"""A browser, and a console to look at. Whatever goes wrong in a page fails the test that has opened it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

from celery_durable.console import Console

from .chromium import launched
from .serving import Served


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One browser for all of these tests. Not for the session: while it is open, its loop is the thread's."""
    with launched() as found:
        yield found


class Troubles:
    """What a browser complains of: errors of scripts, what the policy forbids, answers that are none."""

    def __init__(self) -> None:
        self._seen: list[str] = []
        self._expected: list[re.Pattern[str]] = []

    def watch(self, context: BrowserContext, *sites: str) -> None:
        """Complain of this context's pages, and of all that they load from anywhere but these sites."""
        context.on("console", self._said)
        context.on("weberror", lambda found: self._seen.append(f"an error in the page: {found.error}"))
        context.on("request", lambda request: self._asked(request, sites))

    def expect(self, pattern: str) -> None:
        """This is what the test is about."""
        self._expected.append(re.compile(pattern))

    def check(self) -> None:
        unexpected = [said for said in self._seen if not any(pattern.search(said) for pattern in self._expected)]
        assert not unexpected, "\n".join(unexpected)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._seen.append(f"{message.type} at {message.location.get('url')}: {message.text}")

    def _asked(self, request: Request, sites: tuple[str, ...]) -> None:
        if not request.url.startswith(tuple(f"{site}/" for site in sites)):
            self._seen.append(f"a request to elsewhere: {request.url}")


@pytest.fixture
def troubles() -> Troubles:
    return Troubles()


Serve = Callable[..., Served]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve an application until the test is over."""
    served: list[Served] = []

    def begin(application: Callable[..., Any]) -> Served:
        served.append(Served(application))
        return served[-1]

    yield begin
    for server in served:
        server.stop()


@pytest.fixture
def site(app: Celery, serve: Serve) -> Served:
    """The console of the seeded shop, open to somebody who is called ada."""
    return serve(Console(app, identify=lambda request: "ada"))


Open = Callable[..., Page]


@pytest.fixture
def open_page(browser: Browser, site: Served, troubles: Troubles) -> Iterator[Open]:
    """Open a page of the console in a browser that has no history. Options are those of Playwright's contexts."""
    contexts: list[BrowserContext] = []

    def begin(path: str | None = "/", *, others: tuple[str, ...] = (), **options: Any) -> Page:
        given: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"}
        context = browser.new_context(base_url=site.url, **(given | options))
        context.set_default_timeout(10_000)
        contexts.append(context)
        troubles.watch(context, site.url, *others)
        page = context.new_page()
        if path is not None:
            page.goto(path)
        return page

    yield begin
    for context in contexts:
        context.close()
    troubles.check()


@pytest.fixture
def page(open_page: Open) -> Page:
    """A page that is still empty."""
    return open_page(None)
