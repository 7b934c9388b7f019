"""A FastAPI site: its routes run in threads where Celery knows of no app, or in the event loop."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from celery_durable.contrib.door import sign
from tests.web.conftest import MakeSite, Site
from tests.web.processes import Server
from tests.web.webhooks import test_a_webhook_with_a_token_counts_once as test_a_webhook_with_a_token_counts_once
from tests.web.work import SECRET, UNSERVED

SERVER = ("uvicorn", "tests.web.fastapi_site:app", "--port", "{port}")


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Iterator[Site]:
    with make_site() as site:
        site.work("tests.web.fastapi_site:celery")
        yield site


@pytest.fixture(scope="module")
def server(site: Site) -> Server:
    return site.serve("server", *SERVER)


@pytest.mark.parametrize("route", ["verify", "async-verify"])
def test_a_click_wakes_the_run_that_waits_for_it(site: Site, server: Server, name: str, route: str) -> None:
    # Given
    run = site.waiting("web.onboard", name)
    # When
    assert server.post(f"/{route}/{name}").status == 200
    # Then
    assert site.wait_for(run).result == {"user": name}


@pytest.mark.parametrize("route", ["things", "connections", "async-things"])
def test_a_row_and_an_event_commit_together_or_not_at_all(site: Site, server: Server, name: str, route: str) -> None:
    # Given
    run = site.waiting("web.wait_for", "thing.saved", name)
    # When
    assert server.post(f"/{route}/{name}", {"payload": "rolled back", "fail": True}).status == 500
    # Then
    assert (site.things(name), site.events(name)) == (0, [])
    # When
    assert server.post(f"/{route}/{name}", {"payload": "committed"}).status == 200
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


def test_an_async_session_is_refused_with_the_cure(site: Site, server: Server, name: str) -> None:
    # When
    answer = server.post(f"/async-things/{name}", {"wrong": True})
    # Then
    assert answer.status == 409
    assert "await session.run_sync(lambda session: emit(..., session=session))" in answer.json["refused"]
    assert (site.things(name), site.events(name)) == (0, [])


def test_a_start_commits_with_the_row_or_not_at_all(site: Site, server: Server, name: str) -> None:
    # When
    assert server.post(f"/starts/{name}", {"fail": True, "queue": UNSERVED}).status == 500
    # Then
    assert (site.things(name), site.has_run(name), name in site.unserved()) == (0, False, False)
    # When
    assert server.post(f"/starts/{name}", {}).status == 200
    # Then
    assert site.things(name) == 1
    site.wait_for(name, "suspended")


def test_a_server_that_is_killed_after_the_commit_loses_no_event(site: Site, name: str) -> None:
    # Given
    run = site.waiting("web.wait_for", "thing.saved", name)
    doomed = site.serve("doomed", *SERVER, WEB_DIES_AT="thing.saved")
    # When
    doomed.post_to_its_end(f"/things/{name}", {"payload": "left behind"})
    # Then
    assert site.things(name) == 1
    assert site.wait_for(run).result == "left behind"


def test_a_signed_webhook_is_let_in_and_a_stranger_is_not(site: Site, server: Server, name: str) -> None:
    # Given
    run = site.waiting("web.wait_for", "order.paid ä", name)
    body = json.dumps({"payload": {"order": 8}, "key": name}).encode()
    # When
    answers = [
        server.post("/durable/events/order.paid ä", body, headers)
        for headers in ({}, sign("another", "order.paid ä", body), sign(SECRET, "order.paid ä", body))
    ]
    # Then
    assert [answer.status for answer in answers] == [401, 401, 202]
    assert site.wait_for(run).result == {"order": 8}
    assert len(site.events(name)) == 1
