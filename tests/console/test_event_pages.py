"""The log of events, one event, and emitting one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from celery import Celery
from werkzeug.test import Client

from celery_durable import Durable
from celery_durable.console import Console

from .acting import hidden_of, send, text_of


@pytest.fixture
def app(make: Callable[..., Celery]) -> Celery:
    return make(task_always_eager=True)


def test_the_log_says_what_each_event_did(client: Client) -> None:
    page = client.get("/events")
    rows = text_of(page)
    assert 'order.approved o-8 {"approved": true} woke 1' in rows
    assert 'customer.created user:u39 {"id": "u39"} started 1' in rows
    assert page.text.count("<tr id=") == 50


def test_the_log_is_paged_and_filtered(client: Client, durable: Durable) -> None:
    older = client.get("/events").text.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
    assert client.get(older).text.count("<tr id=") == len(durable.events(limit=1000)) - 50
    assert client.get("/events?name=order.*").text.count("<tr id=") == 3
    assert client.get("/events?name=customer.created&key=user:u3").text.count("<tr id=") == 1
    assert client.get("/events?since=1h").text.count("<tr id=") == 0
    assert "No event is like that" in text_of(client.get("/events?since=1h"))
    assert client.get("/events?since=someday").status_code == 400
    assert client.get("/events?after=x").status_code == 400


def test_an_event_shows_its_payload_and_whom_it_woke(client: Client, durable: Durable) -> None:
    page = client.get("/event/approved-4")
    assert "It woke 1 run." in text_of(page)
    assert 'href="/run/order-4"' in page.text
    assert "was woken" in text_of(page)
    started = client.get("/event/customer-3")
    assert "It started 1 run." in text_of(started)
    run_id = durable.event("customer-3").started[0]
    assert f'href="/run/{run_id}"' in started.text
    assert client.get("/event/nix").status_code == 404


def test_pages_that_have_not_changed_are_not_sent_again(client: Client) -> None:
    for path in ("/events", "/event/approved-4", "/deeds"):
        tag = client.get(path).headers["ETag"]
        assert client.get(path, headers={"If-None-Match": tag}).status_code == 304


def test_an_event_that_nobody_has_looked_at_yet_says_so(make: Callable[..., Celery]) -> None:
    app = make()  # no worker: nothing is dispatched
    client = Client(Console(app, identify=lambda request: "ada"))
    Durable(app).emit("order.approved", None, key="o-404", event_id="fresh")
    assert "not dispatched yet" in text_of(client.get("/events"))
    assert "no worker has taken it" in text_of(client.get("/event/fresh"))


def test_emitting_shows_first_what_it_would_do(client: Client, durable: Durable) -> None:
    before = len(durable.events(limit=1000))
    looked = send(client, "/events/emit", name="order.approved", key="o-36", payload='{"approved": true}', do="look")
    text = text_of(looked)
    assert "1 run waits for it now" in text
    assert 'href="/run/order-36"' in looked.text
    assert "It starts no run of a task that is known here." in text
    created = send(client, "/events/emit", name="customer.created", do="look")
    assert "It starts a run of shop.onboard" in text_of(created)
    assert "No run waits for it now." in text_of(created)
    assert len(durable.events(limit=1000)) == before


def test_what_is_emitted_is_shown_with_what_it_did(client: Client, durable: Durable) -> None:
    fields = {"name": "order.approved", "key": "o-36", "payload": '{"approved": true}', "reason": "by phone"}
    looked = send(client, "/events/emit", **fields, do="look")
    sent = client.post("/events/emit", data=hidden_of(looked) | {"do": "emit"})
    assert sent.status_code == 303
    assert "It woke 1 run." in text_of(client.get(sent.location))
    assert durable.get("order-36").status == "completed"
    deed = durable.audit(limit=1)[0]
    assert (deed.action, deed.actor, deed.reason) == ("emit", "ada", "by phone")
    again = client.post("/events/emit", data=hidden_of(looked) | {"do": "emit"})  # a second click
    assert again.location == sent.location


def test_a_known_id_says_that_nothing_new_was_emitted(client: Client, durable: Durable) -> None:
    event = {"name": "order.approved", "key": "o-4", "payload": '{"approved": true}', "event_id": "approved-4"}
    answer = send(client, "/events/emit", **event, do="emit")
    assert answer.location == "/event/approved-4?again=1"
    assert "Nothing new was emitted." in text_of(client.get(answer.location))
    other = send(client, "/events/emit", **event | {"payload": "{}"}, do="emit")
    assert other.status_code == 409
    assert "was emitted before with another key or payload" in text_of(other)


def test_what_was_typed_stays_where_something_is_wrong(client: Client, durable: Durable) -> None:
    before = len(durable.events(limit=1000))
    for do in ("look", "emit"):
        answer = send(client, "/events/emit", name="order.*", key=" k ", payload='{"a": ', event_id="x" * 300, do=do)
        assert answer.status_code == 400
        assert "wildcard" in text_of(answer)
        assert "This is no JSON" in text_of(answer)
        assert "255 are the most" in text_of(answer)
        assert 'value="k"' in answer.text
    assert send(client, "/events/emit", name="", do="look").status_code == 400
    assert len(durable.events(limit=1000)) == before
    changed = send(client, "/events/emit", name="a", payload="[1]", do="change")
    assert changed.status_code == 200
    assert 'value="a"' in changed.text


def test_one_like_another_begins_with_what_that_holds(client: Client) -> None:
    page = client.get("/events/emit?like=approved-4")
    assert 'value="order.approved"' in page.text
    assert 'value="o-4"' in page.text
    assert "&#34;approved&#34;: true" in page.text
    assert client.get("/events/emit?like=nix").status_code == 200


def test_an_empty_log_teaches(tmp_path: object) -> None:
    from .shop import shop

    client = Client(Console(shop(f"sqlite:///{tmp_path}/empty.db"), identify=lambda request: "ada"))
    assert "No event yet" in text_of(client.get("/events"))
    assert "Nobody has done anything yet" in text_of(client.get("/deeds"))
    assert "none yet" in text_of(client.get("/tasks"))
    assert "No worker executes a run, and none sweeps" in text_of(client.get("/workers"))
