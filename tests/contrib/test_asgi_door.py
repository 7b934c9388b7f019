"""The door as an ASGI application: paths, bodies in pieces, and clients that go."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from celery_durable import Durable
from celery_durable.contrib.asgi import events_app
from celery_durable.contrib.door import ENVELOPE

TOKEN = "a-token-of-the-tests"
LIMIT = 2000 + ENVELOPE
BEARER = [(b"content-type", b"application/json"), (b"authorization", f"Bearer {TOKEN}".encode())]


@pytest.fixture
def celery_app(sqlite_url: str) -> Iterator[Celery]:
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(
        durable_database_url=sqlite_url,
        durable_max_payload=2000,
        task_default_queue=f"door-{uuid.uuid4().hex[:8]}",
        durable_door_tokens=[TOKEN],
    )
    Durable(app).migrate()
    yield app
    app.close()


def knock(
    app: Celery,
    *pieces: bytes,
    path: str = "/durable/events/order.paid",
    method: str = "POST",
    headers: Any = BEARER,
    leaves: bool = False,
) -> tuple[int, Any, int]:
    """The status, the JSON, and how many pieces of the body were asked for. Without a status nothing was answered."""
    scope = {"type": "http", "method": method, "path": path, "root_path": "/durable", "headers": headers}
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if leaves:
        messages.append({"type": "http.disconnect"})
    elif messages:
        messages[-1]["more_body"] = False
    else:
        messages.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Any] = []
    asked = iter(messages)

    async def receive() -> Any:
        return next(asked)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(events_app(app)(scope, receive, send))
    if not sent:
        return 0, None, len(messages) - len(list(asked))
    start, body = sent
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode() or method == "HEAD"
    return start["status"], json.loads(body["body"] or b"null"), len(messages) - len(list(asked))


def test_an_event_comes_in_by_pieces(celery_app: Celery) -> None:
    status, told, _ = knock(celery_app, b'{"payload": {"order"', b': 7}, "key": "user:1", ', b'"event_id": "x"}')
    assert (status, told) == (202, {"id": "x", "duplicate": False})
    event = Durable(celery_app).event("x")
    assert (event.name, event.key, event.payload) == ("order.paid", "user:1", {"order": 7})


def test_a_body_is_optional(celery_app: Celery) -> None:
    assert knock(celery_app, headers=BEARER[1:])[0] == 202


@pytest.mark.parametrize(
    "path", ["/durable/events/", "/durable/events/a/b", "/durable/other", "/durable", "/durablevents/a"]
)
def test_there_is_one_path(celery_app: Celery, path: str) -> None:
    status, told, _ = knock(celery_app, b"{}", path=path)
    assert (status, told["error"]["code"]) == (404, "not-found")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_only_post_is_taken(celery_app: Celery, method: str) -> None:
    assert knock(celery_app, b"{}", method=method)[0] == 405


@pytest.mark.parametrize(
    "headers",
    [[], BEARER[:1], [*BEARER, (b"authorization", b"Bearer another")], [*BEARER[:1], (b"authorization", b"\xff")]],
)
def test_a_stranger_is_refused(celery_app: Celery, headers: Any) -> None:
    assert knock(celery_app, b"{}", headers=headers)[0] == 401


def test_a_body_over_the_limit_is_not_read_to_its_end(celery_app: Celery) -> None:
    pieces = [b"x" * 1000] * 100
    status, _, asked = knock(celery_app, *pieces)
    assert (status, asked) == (413, LIMIT // 1000 + 1)
    told = [*BEARER, (b"content-length", b"100000")]
    assert knock(celery_app, *pieces, headers=told)[::2] == (413, 0)


def test_a_client_that_goes_emits_nothing(celery_app: Celery) -> None:
    assert knock(celery_app, b'{"payload": 1', leaves=True)[0] == 0
    assert len(Durable(celery_app).events()) == 0


def test_a_closed_door_says_so(celery_app: Celery) -> None:
    celery_app.conf.durable_door_tokens = []
    assert knock(celery_app, b"{}")[:2][1]["error"]["code"] == "not-configured"
    bare = Celery("bare", set_as_current=False)
    bare.conf.update(durable_door_tokens=[TOKEN], durable_lease="soon")
    assert knock(bare, b"{}")[0] == 503


def test_a_server_may_begin_and_end(celery_app: Celery) -> None:
    asked = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[str] = []

    async def receive() -> Any:
        return next(asked)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(events_app(celery_app)({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
