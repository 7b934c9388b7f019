"""No action without its form, its permission, or where the console is read-only; and nothing is offered that is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery import Celery
from werkzeug.test import Client

from celery_durable import Durable
from celery_durable.console import Console
from celery_durable.console.access import ACTIONS

from .acting import hidden_of, text_of

PATHS = {
    "cancel": "/run/order-36/cancel",
    "pause": "/run/order-36/pause",
    "resume": "/run/order-16/resume",
    "retry": "/runs/retry?status=failed",
    "fork": "/run/order-4/fork?from=charge",
    "replay": "/run/order-4/replay",
    "answer": "/run/order-36/answer",
    "emit": "/events/emit",
    "start": "/task/shop.trial/start",
}
MORE = ["/runs/cancel?task=shop.trial", "/runs/resume?status=paused"]
FIELDS = {"f/approved": "true", "f/user": "u1", "name": "order.approved", "key": "o-36", "do": "emit"}


def state_of(durable: Durable) -> tuple[object, ...]:
    """All that an action could have changed."""
    return durable.counts(), durable.audit(limit=1000), durable.events(limit=1000), durable.get("order-36")


def test_every_action_is_among_these() -> None:
    assert set(PATHS) == set(ACTIONS)


@pytest.mark.parametrize("path", [*PATHS.values(), *MORE])
def test_a_form_without_its_mark_or_with_a_wrong_one_does_nothing(client: Client, durable: Durable, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200
    before = state_of(durable)
    hidden = hidden_of(page)
    assert hidden["mark"]
    elsewhere = Client(client.application)  # another browser, whose forms have another mark
    foreign = hidden_of(elsewhere.get(path))["mark"]
    for mark in ({}, {"mark": ""}, {"mark": "0" * 64}, {"mark": foreign}):
        sent = {name: value for name, value in hidden.items() if name != "mark"} | FIELDS | mark
        answer = client.post(path, data=sent)
        assert answer.status_code == 403
        assert "Nothing was done" in text_of(answer)
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        assert client.post(path, data=hidden | FIELDS, headers=headers).status_code == 403
    assert state_of(durable) == before


@pytest.mark.parametrize("action", PATHS)
def test_who_may_not_do_it_is_told_and_it_is_not_done(make: Callable[..., Celery], action: str) -> None:
    app = make(durable_console_allow={"ada": [each for each in ACTIONS if each != action], "bob": "*"})
    durable, client = Durable(app), Client(Console(app, identify=lambda request: "ada"))
    mark = hidden_of(client.get(next(path for name, path in PATHS.items() if name != action)))["mark"]
    before = state_of(durable)
    for answer in (client.get(PATHS[action]), client.post(PATHS[action], data=FIELDS | {"mark": mark})):
        assert answer.status_code == 403
        assert f"ada may not {action} here" in text_of(answer)
    assert state_of(durable) == before
    assert Client(Console(app, identify=lambda request: "bob")).get(PATHS[action]).status_code == 200


@pytest.mark.parametrize("path", [*PATHS.values(), *MORE])
def test_a_read_only_console_does_nothing(
    make: Callable[..., Celery], client: Client, durable: Durable, path: str
) -> None:
    before = state_of(durable)
    mark = hidden_of(client.get(path))["mark"]
    reader = Client(Console(make(durable_console_read_only=True), identify=lambda request: "ada"))
    reader.get("/")
    for answer in (reader.get(path), reader.post(path, data=FIELDS | {"mark": mark})):
        assert answer.status_code == 403
    assert "This console is read-only" in text_of(reader.get(path))
    assert state_of(durable) == before


def test_what_may_not_be_done_is_not_offered(make: Callable[..., Celery], client: Client) -> None:
    reader = Client(Console(make(durable_console_read_only=True), identify=lambda request: "ada"))
    offers = {
        "/events": "/events/emit", "/event/approved-4": "/events/emit", "/tasks": "/task/shop.trial/start",
        "/task/shop.trial": "/task/shop.trial/start", "/?status=failed": "/runs/retry",
    }  # fmt: skip
    for path, offer in offers.items():
        assert offer in client.get(path).text
        assert offer not in reader.get(path).text


def test_what_can_be_done_instead_is_only_what_one_may(make: Callable[..., Celery]) -> None:
    app = make(durable_console_allow={"ada": ["cancel", "replay"]})
    page = Client(Console(app, identify=lambda request: "ada")).get("/run/order-4/cancel")
    assert page.status_code == 409
    assert 'href="/run/order-4/replay"' in page.text
    assert 'href="/run/order-4/fork"' not in page.text
