"""Another site, opened in the browser of somebody who may do anything in the console: it can do nothing there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from markupsafe import Markup
from playwright.sync_api import expect
from werkzeug.test import Client
from werkzeug.wrappers import Request, Response

from celery_durable import Durable
from celery_durable.console import Console
from tests.console.conftest import mark_of

from .conftest import Open, Serve, Troubles
from .serving import Served


def kittens(body: str) -> Callable[..., Any]:
    """A site of one page."""
    page = f"<!doctype html><title>Kittens</title><h1>Kittens</h1>{body}"
    return Request.application(lambda request: Response(page, content_type="text/html"))


def sending(target: str, **fields: str) -> str:
    """A form that is sent as soon as it is there."""
    inputs = Markup().join(Markup('<input name="{}" value="{}">').format(*field) for field in fields.items())
    form = Markup('<form method="post" action="{}">{}</form><script>document.forms[0].submit()</script>')
    return form.format(target, inputs)


@pytest.fixture
def marked(app: Celery) -> str:
    """What the console's forms send along, as it was shown in the attacker's own browser."""
    mark = mark_of(Client(Console(app, identify=lambda request: "ada")).get("/run/order-36/cancel"))
    assert mark
    return mark


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["same host", "other host"])
def test_a_form_of_another_site_does_nothing(
    open_page: Open, serve: Serve, site: Served, durable: Durable, troubles: Troubles, marked: str, host: str
) -> None:
    other = serve(kittens(sending(f"{site.url}/run/order-36/cancel", mark=marked, reason="kittens")))
    page = open_page("/", others=(other.url, other.url.replace("127.0.0.1", host)))
    expect(page.locator("#run-order-36")).to_be_visible()
    troubles.expect("403 .FORBIDDEN.|favicon")

    page.goto(other.url.replace("127.0.0.1", host))

    expect(page.get_by_role("heading", level=1)).to_have_text("Forbidden")
    expect(page.get_by_role("main")).to_contain_text("Nothing was done")
    assert ("/run/order-36/cancel", 403) in site.answered
    assert durable.get("order-36").status == "suspended"
    assert not durable.get("order-36").audit


def test_the_console_s_own_form_does_what_the_other_site_s_does_not(open_page: Open, durable: Durable) -> None:
    page = open_page("/run/order-36/cancel")
    page.get_by_label("Why").fill("it is not wanted any more")
    page.get_by_role("button", name="Cancel this run").click()
    page.wait_for_url("**/run/order-36")
    found = durable.get("order-36")
    assert found.cancelling or found.status == "cancelled"
    assert [(deed.action, deed.actor, deed.reason) for deed in found.audit] == [
        ("cancel", "ada", "it is not wanted any more")
    ]


def test_a_script_of_another_site_neither_does_nor_reads_anything(
    open_page: Open, serve: Serve, site: Served, durable: Durable, troubles: Troubles, marked: str
) -> None:
    target = f"{site.url}/run/order-36/cancel"
    other = serve(kittens(""))
    page = open_page("/", others=(other.url,))
    troubles.expect("CORS|403 .FORBIDDEN.|ERR_FAILED|favicon|ERR_BLOCKED_BY_RESPONSE")
    page.goto(other.url)
    said = page.evaluate(
        """([target, mark]) => {
            const answered = (options) => fetch(target, options).then((answer) => answer.text(), () => "refused");
            const credentials = "include", form = {method: "POST", body: new URLSearchParams({mark}), credentials};
            return Promise.all([answered({...form, mode: "no-cors"}), answered(form), answered({credentials})]);
        }""",
        [target, marked],
    )
    assert said == ["refused"] * 3
    # In whatever order they came: the two that were to do something, and the one whose answer was not to be read.
    assert sorted(status for path, status in site.answered if path.endswith("/cancel")) == [200, 403, 403]
    assert not durable.get("order-36").audit


def test_no_other_site_shows_the_console_in_a_frame(
    open_page: Open, serve: Serve, site: Served, troubles: Troubles
) -> None:
    other = serve(kittens(f'<iframe src="{site.url}/"></iframe>'))
    page = open_page("/", others=(other.url,))
    troubles.expect("frame-ancestors|X-Frame-Options|favicon")
    page.goto(other.url)
    expect(page.frame_locator("iframe").locator("#main")).to_have_count(0)
    assert ("/", 200) in site.answered
    assert page.frames[1].url.startswith("chrome-error:")
