"""A Flask site: events and starts that commit with its rows, by real requests to a real server."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from celery_durable.contrib.door import sign
from tests.web.conftest import MakeSite, Site
from tests.web.processes import Server
from tests.web.webhooks import test_a_webhook_with_a_token_counts_once as test_a_webhook_with_a_token_counts_once
from tests.web.work import SECRET, UNSERVED

SERVER = ("flask", "--app", "tests.web.flask_site", "run", "--no-reload", "--port", "{port}")


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Iterator[Site]:
    with make_site() as site:
        site.work("tests.web.flask_site:celery")
        yield site


@pytest.fixture(scope="module")
def server(site: Site) -> Server:
    return site.serve("server", *SERVER)


def test_a_click_wakes_the_run_that_waits_for_it(site: Site, server: Server, name: str) -> None:
    # Given
    run = site.waiting("web.onboard", name)
    # When
    assert server.post(f"/verify/{name}").status == 200
    # Then
    assert site.wait_for(run).result == {"user": name}


def test_a_row_and_an_event_commit_together_or_not_at_all(site: Site, server: Server, name: str) -> None:
    # Given
    run = site.waiting("web.wait_for", "thing.saved", name)
    # When
    assert server.post(f"/things/{name}", {"payload": "rolled back", "fail": True}).status == 500
    # Then
    assert (site.things(name), site.events(name)) == (0, [])
    # When
    assert server.post(f"/things/{name}", {"payload": "committed"}).status == 200
    # Then
    assert (site.things(name), len(site.events(name))) == (1, 1)
    assert site.wait_for(run).result == "committed"


def test_a_savepoint_rolls_back_its_own_events_only(site: Site, server: Server, name: str) -> None:
    # Given
    outer = site.waiting("web.wait_for", "thing.saved", f"{name}-outer")
    # When
    assert server.post(f"/savepoints/{name}").status == 200
    # Then
    assert (site.things(f"{name}-outer"), site.things(f"{name}-inner")) == (1, 0)
    assert (len(site.events(f"{name}-outer")), site.events(f"{name}-inner")) == (1, [])
    assert site.wait_for(outer).result == "outer"


def test_a_start_that_is_rolled_back_is_none(site: Site, server: Server, name: str) -> None:
    # When
    assert server.post(f"/starts/{name}", {"fail": True, "queue": UNSERVED}).status == 500
    # Then
    assert not site.has_run(name)
    assert site.things(name) == 0
    assert name not in site.unserved()


def test_a_start_that_is_committed_is_sent_once_and_runs(site: Site, server: Server, name: str) -> None:
    # When
    assert server.post(f"/starts/{name}", {}).status == 200
    assert server.post(f"/starts/{name}-unserved", {"queue": UNSERVED}).status == 200
    # Then
    assert site.things(name) == 1
    site.wait_for(name, "suspended")
    assert site.durable.get(f"{name}-unserved").status == "pending"
    assert site.unserved().count(f"{name}-unserved") == 1
    # When
    server.post(f"/things/{name}", {"payload": "goes on"})
    # Then
    assert site.wait_for(name).result == "goes on"


def test_a_start_in_a_savepoint_that_is_rolled_back_sends_nothing(site: Site, server: Server, name: str) -> None:
    # When
    assert server.post(f"/starts/{name}", {"savepoint": True, "queue": UNSERVED}).status == 200
    # Then
    assert (site.things(f"{name}-outer"), site.things(name)) == (1, 0)
    assert not site.has_run(name)
    assert name not in site.unserved()


def test_a_start_in_a_savepoint_that_is_rolled_back_does_not_run(site: Site, server: Server, name: str) -> None:
    # When
    assert server.post(f"/starts/{name}", {"savepoint": True}).status == 200
    later = site.waiting("web.wait_for", "thing.saved", f"{name}-later")
    server.post(f"/things/{name}-later")
    site.wait_for(later)
    # Then
    assert not site.has_run(name)


def test_a_worker_has_the_app_context(site: Site, name: str) -> None:
    # When
    run = site.start("web.save", name)
    # Then
    assert site.wait_for(run).result == "flask_site"
    assert site.things(name) == 1


def test_a_session_on_another_database_is_refused(site: Site, server: Server, name: str) -> None:
    # When
    answer = server.post(f"/elsewhere/{name}")
    # Then
    assert answer.status == 409
    assert "sqlite:///" in answer.json["refused"]
    assert "postgresql+psycopg://" in answer.json["refused"]
    assert site.events(name) == []


def test_a_signal_of_blinker_is_an_event(site: Site, server: Server, name: str) -> None:
    # Given
    run = site.waiting("web.wait_for", "thing.sold", name)
    # When
    assert server.post(f"/sell/{name}").status == 200
    # Then
    assert site.wait_for(run).result == {"by": "the shop"}


def test_a_signal_of_celery_is_an_event(site: Site, server: Server, name: str) -> None:
    # Given
    run = site.waiting("web.wait_for", "ordinary.done", name)
    # When
    assert server.post(f"/ordinary/{name}").status == 200
    # Then
    assert site.wait_for(run).result == {"task": "web.ordinary"}
    assert len(site.events(name)) == 1


def test_a_server_that_is_killed_after_the_commit_loses_no_event(site: Site, name: str) -> None:
    # Given
    run = site.waiting("web.wait_for", "thing.saved", name)
    doomed = site.serve("doomed", *SERVER, WEB_DIES_AT="thing.saved")
    # When
    doomed.post_to_its_end(f"/things/{name}", {"payload": "left behind"})
    # Then
    assert site.things(name) == 1
    assert site.wait_for(run).result == "left behind"


def test_a_signed_webhook_counts_once(site: Site, server: Server, name: str) -> None:
    # Given
    run = site.waiting("web.wait_for", "order.paid ä", name)
    body = json.dumps({"payload": {"order": 8}, "key": name}).encode()
    headers = sign(SECRET, "order.paid ä", body)
    # When
    answers = [server.post("/durable/events/order.paid ä", body, headers) for _ in "12"]
    # Then
    assert [(answer.status, answer.json["duplicate"]) for answer in answers] == [(202, False), (202, True)]
    assert site.wait_for(run).result == {"order": 8}
    assert len(site.events(name)) == 1


def test_a_stranger_emits_nothing(site: Site, server: Server, name: str) -> None:
    # When
    body = json.dumps({"key": name}).encode()
    answers = [
        server.post("/durable/events/order.paid", body, headers)
        for headers in ({}, {"Authorization": "Bearer another-token-altogether"}, sign("another", "order.paid", body))
    ]
    # Then
    assert [answer.status for answer in answers] == [401, 401, 401]
    assert site.events(name) == []
