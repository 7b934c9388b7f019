"""The browser of these tests: a Chromium of this machine, driven by Playwright."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

from playwright.sync_api import Browser, Error, sync_playwright

from tests.services import give_up

__all__ = ["launched", "where"]

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_OPTIONS = (
    "--no-sandbox",  # the sandbox can't be had as root, and the pages are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
)


def where() -> str | None:
    """The browser's program: the one that ``CHROMIUM`` names, or one under a name that systems give it."""
    named = os.environ.get("CHROMIUM")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, _NAMES)), None)


@contextlib.contextmanager
def launched(*without: str) -> Iterator[Browser]:
    """The browser, for as long as it is wanted; without some of the options that Playwright gives it."""
    program = where()
    if program is None:
        named = os.environ.get("CHROMIUM")
        missing = f"CHROMIUM is {named!r}, which is no program" if named else f"none of {', '.join(_NAMES)} is in PATH"
        give_up(f"Chromium is missing ({missing}): apt-get install chromium, or set CHROMIUM to where one is")
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=program, args=_OPTIONS, ignore_default_args=without)
        except Error as error:
            give_up(f"{program} does not start: {error.message.splitlines()[0]}")
        try:
            yield browser
        finally:
            browser.close()
