"""The door in a Django site: the route, which Celery app it is, and what Django itself does to a body."""

from __future__ import annotations

import io
import json
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, _state
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import include, path, reverse

from celery_durable import Durable
from celery_durable.contrib.door import ENVELOPE, sign
from celery_durable.core.codec import decode
from celery_durable.worker.runtime import runtime_of

if not settings.configured:
    settings.configure()

TOKEN = "a-token-of-the-tests"
SECRET = "the secret of a neighbour"
BEARER = {"HTTP_AUTHORIZATION": f"Bearer {TOKEN}"}
PLACE = "/durable/events/order.paid"
HERE = __name__
CSRF = "django.middleware.csrf.CsrfViewMiddleware"

# What Django's settings name: the URLs, and two things of which one is a Celery app.
urlpatterns = [path("durable/", include("celery_durable.contrib.django.urls"))]
shop: Any = None
no_app = 7


def look(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """A middleware that reads the body before the view does."""

    def handle(request: HttpRequest) -> HttpResponse:
        assert request.body
        return get_response(request)

    return handle


@pytest.fixture(autouse=True)
def celery_app(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(
        durable_database_url=sqlite_url,
        durable_max_payload=2000,
        task_default_queue=f"door-{uuid.uuid4().hex[:8]}",
        durable_door_tokens=[TOKEN],
        durable_door_secrets=[SECRET],
    )
    Durable(app).migrate()
    monkeypatch.setattr(sys.modules[HERE], "shop", app)
    yield app
    app.close()


@pytest.fixture(autouse=True)
def site() -> Iterator[None]:
    with override_settings(
        ALLOWED_HOSTS=["*"],
        CELERY_DURABLE_APP=f"{HERE}:shop",
        DATA_UPLOAD_MAX_MEMORY_SIZE=100,
        MIDDLEWARE=[CSRF],
        ROOT_URLCONF=HERE,
    ):
        yield


@pytest.fixture
def client() -> Client:
    return Client(enforce_csrf_checks=True)


def post(client: Client, body: bytes | str = b"{}", place: str = PLACE, **extra: Any) -> Any:
    return client.post(place, body, content_type="application/json", **{**BEARER, **extra})


def code(answer: Any) -> str:
    return str(json.loads(answer.content)["error"]["code"])


def stored(app: Celery, event_id: str) -> tuple[str, str | None, Any]:
    """The name, key and payload of an event as it is recorded."""
    store = runtime_of(app).store
    with store.link() as link:
        event = store.event(link, event_id)
    assert event is not None
    return event.name, event.key, decode(event.payload)


def test_an_event_comes_in_without_a_form_token(client: Client, celery_app: Celery) -> None:
    answer = post(client, '{"payload": {"order": 7}, "key": "user:1"}')
    assert (answer.status_code, answer.json()["duplicate"]) == (202, False)
    assert stored(celery_app, answer.json()["id"]) == ("order.paid", "user:1", {"order": 7})


def test_the_route_has_a_name() -> None:
    assert reverse("celery_durable:events", args=["order.paid"]) == PLACE


def test_the_same_event_counts_once_and_other_content_is_a_conflict(client: Client) -> None:
    answers = [post(client, '{"event_id": "x"}').json() for _ in range(2)]
    assert answers == [{"id": "x", "duplicate": False}, {"id": "x", "duplicate": True}]
    assert code(post(client, '{"event_id": "x", "key": "other"}')) == "event-conflict"


def test_a_signed_request_counts_once(client: Client) -> None:
    body = b'{"payload": [1, 2]}'
    signed = sign(SECRET, "order paid.ä", body)
    headers = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in signed.items()}
    place = "/durable/events/order%20paid.%C3%A4"
    answers = [client.post(place, body, content_type="application/json", **headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert [answer.json()["duplicate"] for answer in answers] == [False, True]


def test_a_stranger_is_refused(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    answer = client.post(PLACE, "{}", content_type="application/json")
    assert (answer.status_code, code(answer)) == (401, "unauthorized")
    assert answer["WWW-Authenticate"] == "Bearer"
    assert "127.0.0.1" in caplog.text


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])
def test_only_post_is_taken(client: Client, method: str) -> None:
    answer = client.generic(method, PLACE, **BEARER)
    assert (answer.status_code, answer["Allow"], answer["Content-Type"]) == (405, "POST", "application/json")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[]", 422),
        (b'{"key": "\\u0000"}', 422),
        (b'{"key": "\\ud800"}', 422),
        (b'{"event_id": "\\ud800"}', 422),
        (b'{"payload": ' + b"[" * 300 + b"]" * 300 + b"}", 422),
        (b'{"payload": "' + b"x" * 3000 + b'"}', 413),
        (b'{"payload": "' + b"x" * (2000 + ENVELOPE) + b'"}', 413),
        (b'{"payload": "' + b"x" * 1000 + b'"}', 202),  # more than Django's own limit here
        (b"", 202),
    ],
)
def test_what_comes_of_a_body(client: Client, body: bytes, status: int) -> None:
    assert post(client, body).status_code == status


@pytest.mark.parametrize("name", ["%20", "%00", "%FF%20", "a%0Ab", "x" * 3000])
def test_a_wrong_name_is_refused(client: Client, name: str) -> None:
    assert post(client, place=f"/durable/events/{name}").status_code == 422


def test_another_content_type_is_refused(client: Client) -> None:
    assert client.post(PLACE, {"payload": "1"}, **BEARER).status_code == 415


@pytest.mark.parametrize("length", ["", "0x9", "-1"])
def test_a_body_of_unknown_length_is_no_empty_one(client: Client, length: str) -> None:
    # Under WSGI, Django reads nothing of such a body.
    lost = {"wsgi.input": io.BytesIO(b'{"payload": 1}'), "CONTENT_LENGTH": length, "HTTP_TRANSFER_ENCODING": "chunked"}
    answer = client.generic("POST", PLACE, CONTENT_TYPE="application/json", **BEARER, **lost)
    assert answer.status_code in (400, 411)


def test_a_body_that_a_middleware_has_read_is_not_lost(client: Client) -> None:
    with override_settings(MIDDLEWARE=[CSRF, f"{HERE}.look"]):
        assert post(client, '{"event_id": "looked at"}').json() == {"id": "looked at", "duplicate": False}


def test_the_door_opens_under_asgi_too() -> None:
    import asyncio

    async def ask() -> Any:
        client: Any = AsyncClient(enforce_csrf_checks=True)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return await client.post(PLACE, b'{"event_id": "y"}', content_type="application/json", headers=headers)

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()) == (202, {"id": "y", "duplicate": False})


@pytest.mark.parametrize("named", [f"{HERE}:shop", f"{HERE}.shop"])
def test_the_app_is_the_one_that_is_named(client: Client, named: str) -> None:
    with override_settings(CELERY_DURABLE_APP=named):
        assert post(client).status_code == 202


def test_the_app_is_the_current_one_by_default(client: Client, celery_app: Celery) -> None:
    before = _state._tls.current_app
    with override_settings():
        del settings.CELERY_DURABLE_APP
        other = Celery("other", broker="memory://", set_as_current=False)
        try:
            _state._set_current_app(other)
            assert code(post(client)) == "not-configured"
            _state._set_current_app(celery_app)
            assert post(client).status_code == 202
        finally:
            _state._set_current_app(before)


@pytest.mark.parametrize("named", [f"{HERE}:no_app", f"{HERE}:nothing", "no.such.module:app", "nothing", "", 7])
def test_an_app_that_can_not_be_loaded_shuts_the_door(
    client: Client, named: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with override_settings(CELERY_DURABLE_APP=named):
        answer = post(client)
    assert (answer.status_code, code(answer)) == (503, "configuration")
    assert "CELERY_DURABLE_APP" in caplog.text
    assert HERE not in answer.content.decode()
