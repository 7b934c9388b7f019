"""The same for what takes a whole app: the messages of runs, the door for events, and the console."""

from __future__ import annotations

import atexit
import base64
import functools
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from celery import Celery
from hypothesis import strategies as st
from kombu.exceptions import ContentDisallowed
from werkzeug.test import Client

from celery_durable import Durable
from celery_durable.console import Console
from celery_durable.contrib.door import Door, content_length
from celery_durable.errors import DamagedRecord, DurableError
from celery_durable.worker.message import ignores_result, queue_of
from celery_durable.worker.triggers import tick_of
from tests.console.doors import TOKEN
from tests.console.seeding import seed
from tests.console.shop import shop

from .strategies import json_values, near_json, records
from .targets import allowed, target

__all__: list[str] = []


@functools.cache
def folder() -> Path:
    """Where the databases are, for as long as the process lives."""
    made = tempfile.mkdtemp(prefix="celery-durable-fuzz-")
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return Path(made)


@functools.cache
def seeded() -> Celery:
    path = folder() / "shop.db"
    seed(path)
    app = shop(f"sqlite:///{path}", durable_console_tokens={"ada": TOKEN}, durable_door_tokens=TOKEN)
    app.conf.broker_url = "memory://"
    return app


# -- What a run was sent with

_bodies = records(
    queue=st.text(max_size=8), priority=st.integers(), headers=st.dictionaries(st.text(max_size=8), json_values),
    exchange=json_values, link=st.lists(json_values, max_size=2), chord=json_values, expires=st.text(max_size=20),
    of_task=st.dictionaries(st.text(max_size=8), json_values, max_size=2), routing_key=st.text(max_size=8),
)  # fmt: skip
_types = st.sampled_from(["application/json", "application/x-python-serialize", "application/x-yaml", "text/plain", ""])
_encodings = st.sampled_from(["utf-8", "binary", "no-such", "utf-16"])


@target(records(type=_types, encoding=_encodings, body=_bodies, base64=st.booleans(), carried=json_values), near_json)
def message(kept: str, arguments: str) -> None:
    """What a run's message was sent with, also pickled by somebody: it is never unpickled."""
    app = seeded()
    name = "shop.order"
    with allowed(DamagedRecord, ContentDisallowed, DurableError, TypeError, ValueError, KeyError, AttributeError):
        assert queue_of(app, name, kept) is None or isinstance(queue_of(app, name, kept), str)
    with allowed(ContentDisallowed):
        assert isinstance(ignores_result(app, name, kept), bool)


@target(st.dictionaries(st.text(max_size=10) | st.just("durable_schedule"), json_values, max_size=3))
def schedules(headers: dict[str, Any]) -> None:
    """The headers of a message that a beat may have sent."""
    with allowed(DurableError):
        tick_of(seeded().tasks["shop.order"], headers)


# -- Doors

_header = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=40)


@target(
    st.text(max_size=40),
    records(payload=json_values, key=st.text(max_size=20), event_id=st.text(max_size=20)),
    st.dictionaries(
        st.sampled_from(["Content-Type", "Durable-Timestamp", "Durable-Signature", "Transfer-Encoding", "X"]), _header
    ),
    st.sampled_from([f"Bearer {TOKEN}", f"Bearer {TOKEN}", "Basic x", ""]),
    st.none() | _header,
)
def door(name: str, text: str, headers: dict[str, str], authorization: str, length: str | None) -> None:
    body = text.encode("utf-8", "surrogatepass")
    headers = {"Content-Type": "application/json", **headers, "Authorization": authorization}
    said = content_length(length) if length is not None else len(body)
    answer = Door(seeded()).receive("POST", name, headers, io.BytesIO(body).read, said, "192.0.2.7")
    assert answer.status < 500, answer
    assert answer.status == 202 or set(json.loads(answer.body)) == {"error"}


_paths = st.sampled_from(
    ["/", "/events", "/tasks", "/workers", "/deeds", "/runs/cancel", "/events/emit", "/run/order-0",
     "/run/order-0/fork", "/run/order-0/step/charge", "/run/order-0/history.json", "/event/customer-1", "/sign-in",
     "/task/shop.order/start"]
)  # fmt: skip
_pieces = st.text(max_size=12).map(
    lambda text: "~" + base64.urlsafe_b64encode(text.encode("utf-8", "replace")).decode()
)
_anything = st.builds(lambda path, piece: f"{path.rstrip('/')}/{piece}", _paths, _pieces | st.text(max_size=12))
_names = st.sampled_from(
    ["after", "limit", "status", "task", "since", "until", "search", "event", "name", "key", "payload", "args",
     "kwargs", "id", "mark", "step", "from", "by", "reason", "waiting_on", "next", "token", "user", "at"]
)  # fmt: skip
_cursors = st.sampled_from(["1:", ":", "²:x", "9" * 40 + ":x", "1:\x00", "-1", "0", "9" * 30, "2026-01-01", "9999999h"])
_fields = st.dictionaries(_names | st.text(max_size=8), _cursors | near_json | st.text(max_size=20), max_size=4)


@target(st.sampled_from(["GET", "GET", "POST"]), _paths | _anything, _fields, _fields, st.booleans())
def console(method: str, path: str, query: dict[str, str], form: dict[str, str], signed_in: bool) -> None:
    """A request to the console, by somebody who may and by anybody."""
    client = Client(Console(seeded()))
    for name, value in ({} if signed_in else form).items():
        if name.isidentifier():
            client.set_cookie(name, value.encode("ascii", "replace").decode()[:50])
    headers = {"Authorization": f"Bearer {TOKEN}"} if signed_in else {}

    answer = client.open(
        _plain(path), method=method, query_string={_plain(key): _plain(value) for key, value in query.items()},
        data={_plain(key): _plain(value) for key, value in form.items()} if method == "POST" else None, headers=headers,
    )  # fmt: skip
    assert answer.status_code < 500, (answer.status_code, answer.get_data(as_text=True)[:500])
    assert signed_in or answer.status_code != 200 or path.startswith(("/sign-in", "/static"))


def _plain(text: str) -> str:
    """What a client can send."""
    return text.encode("utf-8", "replace").decode()


@target(_cursors | st.text(max_size=20), st.sampled_from(["runs", "events", "audit"]))
def cursors(after: str, of: str) -> None:
    """Where a page goes on, as somebody wrote it."""
    with allowed(ValueError):
        getattr(Durable(seeded()), of)(after=after, limit=2)
