"""Everything that can be done in the console, as somebody does it: with its script and without."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from celery import Celery
from playwright.sync_api import Page, expect

from celery_durable import Durable, Run
from celery_durable.console import Console

from .conftest import Open, Serve, Troubles


@pytest.fixture(params=[True, False], ids=["script", "no script"])
def page(request: pytest.FixtureRequest, open_page: Open) -> Page:
    return open_page(None, java_script_enabled=request.param)


def deeds(run: Run) -> list[tuple[str, str, str | None]]:
    return [(deed.action, deed.actor, deed.reason) for deed in run.audit]


def do(page: Page, link: str) -> None:
    """Choose something that the page of a run offers."""
    page.get_by_role("navigation", name="What can be done").get_by_role("link", name=link).click()


def lands_on(page: Page, run_id: str) -> None:
    page.wait_for_url(f"**/run/{run_id}")
    expect(page.get_by_role("heading", level=1)).to_contain_text(run_id)


def test_cancel(page: Page, durable: Durable) -> None:
    page.goto("/run/order-36")
    do(page, "Cancel")
    expect(page.get_by_role("heading", level=1)).to_have_text("Cancel this run?")
    expect(page.locator("#consequence")).to_contain_text("It waits for the event 'order.approved'")
    page.get_by_label("By force").check()
    page.get_by_label("Why").fill("ordered twice")
    page.get_by_role("button", name="Cancel this run").click()
    lands_on(page, "order-36")
    expect(page.locator("#run-status")).to_contain_text("cancelled")
    found = durable.get("order-36")
    assert found.status == "cancelled"
    assert deeds(found) == [("cancel", "ada", "ordered twice")]


def test_leave_it_as_it_is(page: Page, durable: Durable) -> None:
    page.goto("/run/order-36/cancel")
    page.get_by_role("link", name="Leave it as it is").click()
    lands_on(page, "order-36")
    assert not durable.get("order-36").audit


def test_pause_and_resume(page: Page, durable: Durable) -> None:
    page.goto("/run/order-36")
    do(page, "Pause")
    page.get_by_label("Why").fill("let us see")
    page.get_by_role("button", name="Pause this run").click()
    lands_on(page, "order-36")
    assert durable.get("order-36").status == "paused"
    do(page, "Resume")
    page.get_by_role("button", name="Resume this run").click()
    lands_on(page, "order-36")
    found = durable.get("order-36")
    assert found.status == "suspended"
    assert [(action, who) for action, who, _ in deeds(found)] == [("pause", "ada"), ("resume", "ada")]


def test_retry(page: Page, durable: Durable) -> None:
    (failed, *_) = durable.runs(status="failed")
    page.goto(f"/run/{failed.id}")
    do(page, "Retry")
    expect(page.locator("#consequence")).to_contain_text("The step 'unlock', which it failed of, is done anew")
    page.get_by_role("button", name="Retry this run").click()
    lands_on(page, failed.id)
    found = durable.get(failed.id)
    assert found.status != "failed"
    assert [action for action, _, _ in deeds(found)] == ["retry"]


def test_fork(page: Page, durable: Durable) -> None:
    page.goto("/run/order-8")
    do(page, "Fork")
    expect(page.get_by_role("heading", level=1)).to_have_text("Start anew from which step?")
    page.get_by_role("main").get_by_role("link", name="ship", exact=True).click()
    expect(page.locator("#consequence")).to_contain_text("are reused and not executed again")
    page.get_by_label("Id of the new run").fill("order-8-shipped-again")
    page.get_by_role("button", name="Start the new run").click()
    lands_on(page, "order-8-shipped-again")
    found = durable.get("order-8-shipped-again")
    assert (found.forked_from, found.forked_at) == ("order-8", "ship")


def test_replay_with_another_input(page: Page, durable: Durable) -> None:
    page.goto("/run/order-8")
    do(page, "Replay")
    expect(page.get_by_label("order_id")).to_have_value("o-8")
    page.get_by_label("amount").fill("12.5")
    page.get_by_label("Id of the new run").fill("order-8-cheaper")
    page.get_by_role("button", name=re.compile("^Start|^Replay")).click()
    lands_on(page, "order-8-cheaper")
    found = durable.get("order-8-cheaper")
    assert found.replayed_from == "order-8"
    assert 12.5 in [*found.args, *found.kwargs.values()]


def test_answer(page: Page, durable: Durable) -> None:
    page.goto("/run/order-36")
    page.get_by_role("link", name=re.compile("^Answer")).first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Ship order o-36 for 360.0 EUR?")
    page.get_by_role("group", name="approved").get_by_label("yes").check()
    page.get_by_label("carrier").select_option("courier")
    page.get_by_label("note").fill("ring twice")
    page.get_by_label("Why").fill("a good customer")
    page.get_by_role("button", name="Send the answer").click()
    lands_on(page, "order-36")
    (event, *_) = durable.events(name="order.approved", key="o-36")
    assert event.payload == {"approved": True, "carrier": "courier", "note": "ring twice"}
    assert ("answer", "ada", "a good customer") in deeds(durable.get("order-36"))


def test_emit(page: Page, durable: Durable, troubles: Troubles) -> None:
    page.goto("/events")
    page.get_by_role("link", name="Emit").click()
    page.get_by_label("Name").fill("order.approved")
    page.get_by_role("textbox", name="Key").fill("o-32")
    page.get_by_label("Payload").fill('{"approved": tru}')
    troubles.expect("400 .BAD REQUEST.")
    page.get_by_role("button", name="Look what it would do").click()
    expect(page.locator("#payload-error")).to_be_visible()
    expect(page.get_by_role("textbox", name="Key")).to_have_value("o-32")
    page.get_by_label("Payload").fill('{"approved": true}')
    page.get_by_role("button", name="Look what it would do").click()
    expect(page.locator("#consequence")).to_contain_text("1 run waits for it now")
    page.get_by_role("button", name="Emit it").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("order.approved")
    (event, *_) = durable.events(name="order.approved", key="o-32")
    assert page.url.endswith(f"/event/{event.id}")
    assert event.payload == {"approved": True}


def test_start(page: Page, durable: Durable, troubles: Troubles) -> None:
    page.goto("/tasks")
    page.get_by_role("link", name="shop.order", exact=True).click()
    page.get_by_role("link", name="Start a run").click()
    page.get_by_label("order_id").fill("o-by-hand")
    page.get_by_label("amount").fill("7.25")
    page.get_by_role("group", name="express").get_by_label("yes").check()
    page.get_by_label("Not before").fill("soon")
    troubles.expect("400 .BAD REQUEST.")
    page.get_by_label("Why").fill("by phone")
    page.get_by_role("button", name="Start the run").click()
    expect(page.locator("#countdown-error")).to_be_visible()
    expect(page.get_by_label("order_id")).to_have_value("o-by-hand")
    page.get_by_label("Not before").fill("10m")
    page.get_by_label("Id of the run").fill("order-by-hand")
    page.get_by_role("button", name="Start the run").click()
    lands_on(page, "order-by-hand")
    found = durable.get("order-by-hand")
    assert found.kwargs == {"order_id": "o-by-hand", "amount": 7.25, "express": True}
    assert deeds(found) == [("start", "ada", "by phone")]


def test_retry_many(page: Page, durable: Durable) -> None:
    page.goto("/?status=failed")
    page.locator("#bulk").get_by_role("link", name="Retry").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Retry 3 runs?")
    expect(page.locator("#preview tbody tr")).to_have_count(3)
    page.get_by_label("Why").fill("the service is back")
    page.get_by_role("button", name="Retry 3 runs").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Retried 3 runs")
    assert durable.counts()["failed"] == 0
    page.get_by_role("link", name="Deeds").click()
    expect(page.locator("#deeds tr").first).to_contain_text("the service is back")


def test_what_can_t_be_done_any_more_says_what_was_found(page: Page, durable: Durable, troubles: Troubles) -> None:
    page.goto("/run/order-36/pause")
    durable.cancel("order-36", force=True, by="bob")
    troubles.expect("409 .CONFLICT.")
    page.get_by_role("button", name="Pause this run").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("be paused now")
    expect(page.get_by_role("alert")).to_contain_text("Nothing was done")
    assert [who for _, who, _ in deeds(durable.get("order-36"))] == ["bob"]


def test_who_may_not_is_not_asked_and_refused(
    make: Callable[..., Celery], serve: Serve, open_page: Open, troubles: Troubles, durable: Durable
) -> None:
    app = make(durable_console_allow={"ada": ["pause"]})
    site = serve(Console(app, identify=lambda request: "ada"))
    page = open_page(None, others=(site.url,))
    page.goto(f"{site.url}/run/order-36")
    offered = page.get_by_role("navigation", name="What can be done").get_by_role("link")
    expect(offered.filter(has_text="…")).to_have_text(["Pause …"])
    troubles.expect("403 .FORBIDDEN.")
    page.goto(f"{site.url}/run/order-36/cancel")
    expect(page.get_by_role("main")).to_contain_text("ada may not cancel here")


def test_a_console_that_only_shows_offers_nothing(
    make: Callable[..., Celery], serve: Serve, open_page: Open, troubles: Troubles
) -> None:
    site = serve(Console(make(durable_console_read_only=True), identify=lambda request: "ada"))
    page = open_page(None, others=(site.url,))
    for path in ("/?status=failed", "/run/order-36", "/events", "/tasks", "/task/shop.order"):
        page.goto(f"{site.url}{path}")
        expect(page.get_by_text("read-only", exact=True)).to_be_visible()
        expect(page.get_by_role("main").get_by_role("link").filter(has_text="…")).to_have_count(0)
    troubles.expect("403 .FORBIDDEN.")
    page.goto(f"{site.url}/run/order-36/cancel")
    expect(page.get_by_role("main")).to_contain_text("This console is read-only")
