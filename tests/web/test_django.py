"""A Django site: views in ``transaction.atomic``, signals of models, and the door, by real requests."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from sqlalchemy import make_url

from celery_durable.contrib.door import sign
from tests.proxy import Proxy
from tests.web.conftest import MakeSite, Site
from tests.web.processes import Server
from tests.web.webhooks import test_a_webhook_with_a_token_counts_once as test_a_webhook_with_a_token_counts_once
from tests.web.work import SECRET, TOKEN, UNSERVED

SERVER = ("django", "runserver", "--noreload", "127.0.0.1:{port}")


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Iterator[Site]:
    with make_site(DJANGO_SETTINGS_MODULE="tests.web.django_site.settings") as site:
        site.work("tests.web.django_site")
        yield site


@pytest.fixture(scope="module")
def server(site: Site) -> Server:
    """Django has one database, which is the durable one."""
    return site.serve("server", *SERVER, WEB_NAMES_ITS_APP="1")


@pytest.fixture(scope="module")
def proxied(site: Site) -> Iterator[Server]:
    """Django has one database, which is the durable one under another name."""
    url = make_url(site.url)
    proxy = Proxy(str(url.host), url.port or 5432)
    yield site.serve("proxied", *SERVER, WEB_DATABASES="proxied", WEB_PROXY_PORT=str(proxy.port))
    proxy.cut()


@pytest.fixture(scope="module")
def elsewhere(site: Site) -> Server:
    """Django has one database, which is not the durable one."""
    return site.serve("elsewhere", *SERVER, WEB_DATABASES="elsewhere")


@pytest.fixture(scope="module")
def both(site: Site) -> Server:
    """Django has two databases, of which the default one is not the durable one."""
    return site.serve("both", *SERVER, WEB_DATABASES="both")


def test_a_click_wakes_the_run_that_waits_for_it(site: Site, server: Server, name: str) -> None:
    # Given
    run = site.waiting("web.onboard", name)
    # When
    assert server.post(f"/verify/{name}").status == 200
    # Then
    assert site.wait_for(run).result == {"user": name}


def test_a_row_and_an_event_commit_together_or_not_at_all(site: Site, server: Server, name: str) -> None:
    # Given
    run = site.waiting("web.wait_for", "thing.noted", name)
    # When
    assert server.post(f"/notes/{name}", {"payload": "rolled back", "fail": True}).status == 500
    # Then
    assert (site.things(name), site.events(name)) == (0, [])
    # When
    assert server.post(f"/notes/{name}", {"payload": "committed"}).status == 200
    # Then
    assert (site.things(name), site.names(name)) == (1, ["thing.noted", "thing.saved"])
    assert site.wait_for(run).result == "committed"


def test_a_savepoint_rolls_back_its_own_only(site: Site, server: Server, name: str) -> None:
    # Given
    outer = site.waiting("web.wait_for", "thing.noted", f"{name}-outer")
    # When
    assert server.post(f"/savepoints/{name}").status == 200
    # Then
    assert (site.things(f"{name}-outer"), site.things(f"{name}-inner")) == (1, 0)
    assert (site.names(f"{name}-outer"), site.names(f"{name}-inner")) == (["thing.noted", "thing.saved"], [])
    assert site.wait_for(outer).result == "outer"
    assert not site.has_run(f"{name}-inner")
    assert f"{name}-inner" not in site.unserved()


def test_a_model_that_is_not_saved_in_the_end_emits_nothing(site: Site, server: Server, name: str) -> None:
    # Given
    run = site.waiting("web.wait_for", "thing.saved", name)
    # When
    assert server.post(f"/things/{name}", {"fail": True}).status == 500
    # Then
    assert (site.things(name), site.events(name)) == (0, [])
    # When
    assert server.post(f"/things/{name}").status == 200
    # Then
    assert (site.things(name), site.names(name)) == (1, ["thing.saved"])
    assert site.wait_for(run).result["created"] is True


def test_a_start_commits_with_the_row_or_not_at_all(site: Site, server: Server, name: str) -> None:
    # When
    answer = server.post(f"/starts/{name}", {"fail": True})
    assert server.post(f"/starts/{name}-unserved", {"fail": True, "queue": UNSERVED}).status == answer.status == 500
    # Then
    assert (site.things(name), site.has_run(answer.json["run"])) == (0, False)
    assert f"{name}-unserved" not in site.unserved()
    # When
    answer = server.post(f"/starts/{name}", {})
    assert server.post(f"/starts/{name}-unserved", {"queue": UNSERVED}).status == answer.status == 200
    # Then
    assert site.things(name) == 1
    site.wait_for(answer.json["run"], "suspended")
    assert site.unserved().count(f"{name}-unserved") == 1


def test_a_shared_task_starts_on_commit(site: Site, server: Server, name: str) -> None:
    # When
    answer = server.post(f"/shared/{name}")
    # Then
    assert answer.status == 200
    assert site.wait_for(answer.json["run"]).result == name


def test_a_server_that_is_killed_after_the_commit_loses_no_event(site: Site, name: str) -> None:
    # Given
    run = site.waiting("web.wait_for", "thing.saved", name)
    doomed = site.serve("doomed", *SERVER, WEB_DIES_AT="thing.saved")
    # When
    doomed.post_to_its_end(f"/things/{name}")
    # Then
    assert site.things(name) == 1
    assert site.wait_for(run).result["created"] is True


@pytest.mark.parametrize("using", [None, "default"])
def test_behind_a_pooler_an_event_commits_with_the_row(
    site: Site, proxied: Server, name: str, using: str | None
) -> None:
    # When
    assert proxied.post(f"/notes/{name}", {"using": using}).status == 200
    # Then
    assert (site.things(name), site.names(name)) == (1, ["thing.noted", "thing.saved"])


# ------------------------------------------------------------------ the durable database is another


@pytest.mark.parametrize("databases", ["elsewhere", "both"])
def test_elsewhere_a_signal_is_an_event_once_its_transaction_has_committed(
    site: Site, databases: str, request: pytest.FixtureRequest, name: str
) -> None:
    # Given
    server: Server = request.getfixturevalue(databases)
    run = site.waiting("web.wait_for", "thing.saved", name)
    # When
    assert server.post(f"/things/{name}", {"fail": True}).status == 500
    # Then
    assert (site.other_things(name), site.events(name)) == (0, [])
    # When
    assert server.post(f"/things/{name}").status == 200
    # Then
    assert (site.other_things(name), site.names(name)) == (1, ["thing.saved"])
    assert site.wait_for(run).result["created"] is True


@pytest.mark.parametrize("databases", ["elsewhere", "both"])
def test_elsewhere_a_run_is_started_once_its_transaction_has_committed(
    site: Site, databases: str, request: pytest.FixtureRequest, name: str
) -> None:
    # Given
    server: Server = request.getfixturevalue(databases)
    # When
    answer = server.post(f"/starts/{name}")
    # Then
    assert answer.status == 200
    assert site.other_things(name) == 1
    site.wait_for(answer.json["run"], "suspended")


@pytest.mark.parametrize("databases", ["elsewhere", "both"])
def test_elsewhere_no_run_is_started_by_a_transaction_that_is_rolled_back(
    site: Site, databases: str, request: pytest.FixtureRequest, name: str
) -> None:
    # Given
    server: Server = request.getfixturevalue(databases)
    # When
    answer = server.post(f"/starts/{name}", {"fail": True})
    # Then
    assert answer.status == 500
    assert (site.other_things(name), site.has_run(answer.json["run"])) == (0, False)


def test_an_event_does_not_outlive_the_transaction_of_the_default_database(site: Site, both: Server, name: str) -> None:
    # When
    both.post(f"/notes/{name}", {"fail": True})
    # Then
    assert (site.other_things(name), site.events(name)) == (0, [])


def test_elsewhere_an_event_that_is_to_commit_with_rows_is_refused(site: Site, elsewhere: Server, name: str) -> None:
    # When
    answer = elsewhere.post(f"/notes/{name}")
    # Then
    assert answer.status == 409
    assert "sqlite:///" in answer.json["refused"]
    assert "postgresql+psycopg://" in answer.json["refused"]
    assert (site.other_things(name), site.events(name)) == (0, [])


# ------------------------------------------------------------------ the door


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


def test_the_door_finds_the_app_where_the_settings_do_not_name_it(site: Site, both: Server, name: str) -> None:
    # When
    answer = both.post("/durable/events/order.paid", {"key": name}, {"Authorization": f"Bearer {TOKEN}"})
    # Then
    assert answer.status == 202, answer
    assert len(site.events(name)) == 1
