"""The door in a Flask app: the route, and what Flask itself does to a body."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from flask import Flask, request
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_durable import Durable
from celery_durable.contrib.door import ENVELOPE, sign
from celery_durable.contrib.flask import events_blueprint
from celery_durable.core.codec import decode
from celery_durable.worker.runtime import runtime_of

TOKEN = "a-token-of-the-tests"
SECRET = "the secret of a neighbour"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PLACE = "/durable/events/order.paid"


@pytest.fixture
def celery_app(sqlite_url: str) -> Any:
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(
        durable_database_url=sqlite_url,
        durable_max_payload=2000,
        task_default_queue=f"door-{uuid.uuid4().hex[:8]}",
        durable_door_tokens=[TOKEN],
        durable_door_secrets=[SECRET],
    )
    Durable(app).migrate()
    yield app
    app.close()


@pytest.fixture
def flask_app(celery_app: Celery) -> Flask:
    made = Flask("shop")
    made.register_blueprint(events_blueprint(celery_app), url_prefix="/durable")
    return made


@pytest.fixture
def client(flask_app: Flask) -> FlaskClient:
    return flask_app.test_client()


def stored(app: Celery, event_id: str) -> tuple[str, str | None, Any]:
    """The name, key and payload of an event as it is recorded."""
    store = runtime_of(app).store
    with store.link() as link:
        event = store.event(link, event_id)
    assert event is not None
    return event.name, event.key, decode(event.payload)


def test_an_event_comes_in(client: FlaskClient, celery_app: Celery) -> None:
    answer = client.post(PLACE, json={"payload": {"order": 7}, "key": "user:1"}, headers=BEARER)
    assert answer.status_code == 202
    assert answer.json is not None
    assert answer.json["duplicate"] is False
    assert stored(celery_app, answer.json["id"]) == ("order.paid", "user:1", {"order": 7})


def test_the_same_event_counts_once(client: FlaskClient) -> None:
    answers = [client.post(PLACE, json={"event_id": "x"}, headers=BEARER).json for _ in range(2)]
    assert answers == [{"id": "x", "duplicate": False}, {"id": "x", "duplicate": True}]


def test_other_content_under_one_id_is_a_conflict(client: FlaskClient) -> None:
    client.post(PLACE, json={"event_id": "x", "payload": 1}, headers=BEARER)
    answer = client.post(PLACE, json={"event_id": "x", "payload": 2}, headers=BEARER)
    assert (answer.status_code, _code(answer)) == (409, "event-conflict")


def test_a_signed_request_counts_once(client: FlaskClient) -> None:
    body = b'{"payload": [1, 2]}'
    headers = {"Content-Type": "application/json", **sign(SECRET, "order paid/ä".replace("/", "."), body)}
    answers = [client.post("/durable/events/order%20paid.%C3%A4", data=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert [answer.json["duplicate"] for answer in answers if answer.json] == [False, True]


def test_a_stranger_is_refused(client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    answer = client.post(PLACE, json={})
    assert (answer.status_code, _code(answer)) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "127.0.0.1" in caplog.text


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_only_post_is_taken(client: FlaskClient, method: str) -> None:
    answer = client.open(PLACE, method=method, headers=BEARER)
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "POST"
    assert answer.mimetype == "application/json"


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 422),
        (b"{}", "text/plain", 415),
        (b'{"key": ""}', "application/json", 422),
        (b'{"key": "\\u0000"}', "application/json", 422),
        (b'{"key": "\\ud800"}', "application/json", 422),
        (b'{"event_id": ""}', "application/json", 422),
        (b'{"event_id": "\\ud800"}', "application/json", 422),
        (b'{"event_id": "\\u0000"}', "application/json", 422),
        (b'{"payload": ' + b"[" * 300 + b"]" * 300 + b"}", "application/json", 422),
        (b'{"payload": "' + b"x" * 3000 + b'"}', "application/json", 413),
        (b'{"payload": "\\u0000\\ud800"}', "application/json", 202),
        (b"", None, 202),
    ],
)
def test_what_emit_makes_of_it(client: FlaskClient, body: bytes, kind: str | None, status: int) -> None:
    answer = client.post(PLACE, data=body, content_type=kind, headers=BEARER)
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize("name", ["%20", "%00", "a%0Ab", "x" * 3000, "*"])
def test_a_wrong_name_is_refused(client: FlaskClient, name: str) -> None:
    answer = client.post(f"/durable/events/{name}", headers=BEARER)
    assert (answer.status_code, _code(answer)) == (422, "wrong-event")


def test_a_database_that_is_away_is_said() -> None:
    away = Celery("away", broker="memory://", set_as_current=False)
    away.conf.update(durable_database_url="postgresql+psycopg://me:hush@127.0.0.1:1/nowhere", durable_door_tokens=TOKEN)
    app = Flask("away")
    app.register_blueprint(events_blueprint(away))
    answer = app.test_client().post("/events/order.paid", headers=BEARER)
    assert (answer.status_code, _code(answer)) == (503, "unavailable")
    assert answer.headers["Retry-After"]
    assert "hush" not in answer.text
    assert "127.0.0.1" not in answer.text


def test_a_database_without_tables_is_said(tmp_path: Path) -> None:
    bare = Celery("bare", broker="memory://", set_as_current=False)
    bare.conf.update(
        durable_database_url=f"sqlite:///{tmp_path}/bare.db", durable_auto_migrate=False, durable_door_tokens=TOKEN
    )
    app = Flask("bare")
    app.register_blueprint(events_blueprint(bare))
    answer = app.test_client().post("/events/order.paid", headers=BEARER)
    assert (answer.status_code, _code(answer)) == (503, "configuration")
    assert "bare.db" not in answer.text


@given(st.text(st.characters(exclude_categories=()), max_size=12), st.binary(max_size=6), st.booleans())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_a_friend_sends_is_no_error_of_the_server(
    client: FlaskClient, text: str, raw: bytes, as_key: bool
) -> None:
    name = "".join(f"%{byte:02x}" for byte in raw.replace(b"/", b"") or b"x")
    body = json.dumps({"payload": text, ("key" if as_key else "event_id"): text})
    answer = client.post(f"/durable/events/{name}", data=body, content_type="application/json", headers=BEARER)
    assert answer.status_code in (202, 409, 422)


def test_a_body_over_the_limit_is_refused(client: FlaskClient) -> None:
    large = b'{"payload": "' + b"x" * (2000 + ENVELOPE) + b'"}'
    assert client.post(PLACE, data=large, content_type="application/json", headers=BEARER).status_code == 413
    assert _chunked(client, large).status_code == 413
    assert _chunked(client, b'{"event_id": "in chunks"}').json == {"id": "in chunks", "duplicate": False}


def test_a_chunked_body_that_the_server_drops_is_no_empty_one(client: FlaskClient) -> None:
    assert _chunked(client, b'{"payload": 1}', terminated=False).status_code == 411


def test_a_body_that_was_read_before_is_not_lost(flask_app: Flask, client: FlaskClient) -> None:
    @flask_app.before_request
    def look() -> None:
        request.get_data()

    answer = client.post(PLACE, json={"event_id": "looked at"}, headers=BEARER)
    assert answer.json == {"id": "looked at", "duplicate": False}


def test_a_body_that_was_thrown_away_is_no_empty_one(flask_app: Flask, client: FlaskClient) -> None:
    @flask_app.before_request
    def swallow() -> None:
        request.stream.read()

    assert client.post(PLACE, json={"payload": 1}, headers=BEARER).status_code == 400


def test_there_may_be_two_doors_and_a_durable_will_do(celery_app: Celery) -> None:
    app = Flask("two")
    app.register_blueprint(events_blueprint(celery_app), url_prefix="/one")
    app.register_blueprint(events_blueprint(Durable(celery_app), name="other"), url_prefix="/two")
    for prefix in ("one", "two"):
        assert app.test_client().post(f"/{prefix}/events/x", headers=BEARER).status_code == 202


def test_without_flask_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['flask'] = None; import celery_durable.contrib.flask"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'pip install "celery-durable[flask]"' in done.stderr


def _chunked(client: FlaskClient, body: bytes, terminated: bool = True) -> Any:
    """A request without Content-Length, from a server that ends the stream by itself, or from one that does not."""
    environ = {
        "wsgi.input": io.BytesIO(body),
        "HTTP_TRANSFER_ENCODING": "chunked",
        **({"wsgi.input_terminated": True} if terminated else {}),
    }
    return client.post(PLACE, content_type="application/json", headers=BEARER, environ_overrides=environ)


def _code(answer: Any) -> str:
    return str(json.loads(answer.data)["error"]["code"])
