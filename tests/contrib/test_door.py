"""The door by itself: who may come in, what is taken, and what each refusal says."""

from __future__ import annotations

import ast
import hashlib
import hmac
import inspect
import io
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import DataError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from celery_durable import ConfigurationError, DurableError, NotSerializable, PayloadTooLarge
from celery_durable.contrib import door as door_module
from celery_durable.contrib.door import ENVELOPE, Answer, Door, content_length, sign
from celery_durable.errors import EventConflict
from celery_durable.model import EventReceipt

TOKEN = "a-token-of-the-tests"
SECRET = "the secret of a neighbour"
JSON = {"Content-Type": "application/json"}
BEARER = {**JSON, "Authorization": f"Bearer {TOKEN}"}
LIMIT = 2000 + ENVELOPE


class Emitter:
    """Stands in for ``Durable.emit``: keeps what it is called with, or raises."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, str | None, str | None]] = []
        self.error: BaseException | None = None

    def __call__(
        self, name: str, payload: Any = None, *, key: str | None = None, event_id: str | None = None
    ) -> EventReceipt:
        if self.error is not None:
            raise self.error
        known = event_id is not None and any(event_id == call[3] for call in self.calls)
        self.calls.append((name, payload, key, event_id))
        return EventReceipt(id=event_id or f"e{len(self.calls)}", duplicate=known)


class House:
    """A door with its app, and a way to knock."""

    def __init__(self, **configured: Any) -> None:
        self.app = Celery("door", broker="memory://", set_as_current=False)
        self.app.conf.update(
            {
                "durable_database_url": "sqlite://",
                "durable_max_payload": 2000,
                "durable_door_tokens": TOKEN,
                "durable_door_secrets": SECRET,
                **configured,
            }
        )
        self.emitter = Emitter()
        self.door = Door(self.app, self.emitter)

    def knock(
        self,
        body: bytes | str = b"{}",
        headers: dict[str, str] = BEARER,
        *,
        name: str = "order.paid",
        method: str = "POST",
        read: Callable[[int], bytes] | None = None,
        streamed: bool = False,
    ) -> Answer:
        body = body.encode() if isinstance(body, str) else body
        length = None if streamed else len(body)
        return self.door.receive(method, name, headers, read or io.BytesIO(body).read, length, "192.0.2.7")

    def knock_signed(self, body: bytes = b"{}", at: int | None = None, secret: str = SECRET) -> Answer:
        return self.knock(body, {**JSON, **sign(secret, "order.paid", body, at)})


@pytest.fixture
def house() -> House:
    return House()


def refused(answer: Answer, status: int, code: str) -> str:
    """Check a refusal, and give back its message."""
    content = json.loads(answer.body)
    assert (answer.status, content["error"]["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/json"
    assert set(content) == {"error"}
    assert set(content["error"]) == {"code", "message"}
    return str(content["error"]["message"])


# ------------------------------------------------------------------------------------------- who it is


def test_a_token_opens(house: House) -> None:
    answer = house.knock('{"payload": {"order": 7}, "key": "user:1", "event_id": "x-1"}')
    assert (answer.status, json.loads(answer.body)) == (202, {"id": "x-1", "duplicate": False})
    assert house.emitter.calls == [("order.paid", {"order": 7}, "user:1", "x-1")]


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   "])
def test_the_scheme_is_read_in_any_case(house: House, scheme: str) -> None:
    assert house.knock(headers={**JSON, "authorization": f"{scheme}{TOKEN}"}).status == 202


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN.upper()}"},
        {"Authorization": f"Bearer {SECRET}"},
        {"Authorization": "Bearer \u2603" + TOKEN},
        {"Durable-Signature": "sha256="},
        {"Durable-Timestamp": "1", "Durable-Signature": "sha256="},
    ],
)
def test_anything_else_does_not_open(house: House, headers: dict[str, str]) -> None:
    answer = house.knock(headers={**JSON, **headers})
    assert "Bearer" in refused(answer, 401, "unauthorized")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert house.emitter.calls == []


def test_a_token_may_hold_what_wsgi_hands_over_as_latin_1() -> None:
    house = House(durable_door_tokens="geheim-für-alle-Türen")
    as_wsgi_has_it = "geheim-für-alle-Türen".encode().decode("latin-1")
    assert house.knock(headers={**JSON, "Authorization": f"Bearer {as_wsgi_has_it}"}).status == 202


def test_each_token_of_a_list_opens() -> None:
    tokens = [f"token-number-{number:08}" for number in range(3)]
    house = House(durable_door_tokens=tokens)
    for token in tokens:
        assert house.knock(headers={**JSON, "Authorization": f"Bearer {token}"}).status == 202


def test_a_signature_opens(house: House) -> None:
    assert house.knock_signed(b'{"payload": 1, "event_id": "mine"}').status == 202
    assert house.emitter.calls == [("order.paid", 1, None, "mine")]


def test_a_signature_is_what_the_documentation_says() -> None:
    expected = hmac.new(b"key", b"1700000000.a.b." + b'{"payload":1}', hashlib.sha256).hexdigest()
    assert sign("key", "a.b", b'{"payload":1}', 1700000000) == {
        "Durable-Timestamp": "1700000000",
        "Durable-Signature": f"sha256={expected}",
    }


def test_signing_with_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="durable_door_secrets"):
        sign("", "a", b"")


def test_a_signature_covers_time_name_and_body(house: House) -> None:
    now = int(time.time())
    signed = {**JSON, **sign(SECRET, "order.paid", b"{}", now)}
    assert house.knock(b"{ }", signed).status == 401
    assert house.knock(b"{}", signed, name="order.lost").status == 401
    assert house.knock(b"{}", {**signed, "Durable-Timestamp": str(now + 1)}).status == 401
    assert house.knock(b"{}", {**signed, "Durable-Timestamp": f"0{now}"}).status == 401
    assert house.knock(b"{}", {**signed, "Durable-Timestamp": f" {now}"}).status == 401
    assert house.knock_signed(secret="another secret").status == 401
    assert house.emitter.calls == []
    assert house.knock(b"{}", signed).status == 202


@pytest.mark.parametrize(
    "written", ["", "+{now}", "-{now}", "{now}.0", "{now}e0", " {now}", "{now}\n", "000{now}", "{far}"]
)
def test_a_timestamp_is_whole_seconds(house: House, written: str) -> None:
    now = str(int(time.time()))
    refuse = written.format(now=now, far="1" * 5000)
    arabic = now.translate({ord("0") + digit: 0x660 + digit for digit in range(10)})
    for timestamp, status in ((now, 202), (refuse, 401), (arabic, 401)):
        code = hmac.new(SECRET.encode(), f"{timestamp}.order.paid.{{}}".encode(), hashlib.sha256).hexdigest()
        signed = {**JSON, "Durable-Timestamp": timestamp, "Durable-Signature": f"sha256={code}"}
        assert house.knock(headers=signed).status == status


def test_a_name_that_has_no_bytes_is_signed_too(house: House) -> None:
    # Given a lone surrogate, which only a test or a broken server hands over.
    assert house.knock(headers={**JSON, **sign(SECRET, "other", b"{}")}, name="\ud800").status == 401
    assert house.knock(headers={**JSON, **sign(SECRET, "\ud800", b"{}")}, name="\ud800").status == 202


@pytest.mark.parametrize(("away", "status"), [(0, 202), (50, 202), (-50, 202), (70, 401), (-70, 401)])
def test_a_signature_is_good_for_the_window_on_both_sides(away: int, status: int) -> None:
    house = House(durable_door_window="1m")
    assert house.knock_signed(at=int(time.time()) + away).status == status


def test_the_window_is_five_minutes_by_default(house: House) -> None:
    now = int(time.time())
    assert [house.knock_signed(at=now - age).status for age in (290, 310)] == [202, 401]


def test_the_same_signed_request_counts_once(house: House) -> None:
    now = int(time.time())
    first, again = house.knock_signed(at=now), house.knock_signed(at=now)
    assert (first.status, again.status) == (202, 202)
    signature = sign(SECRET, "order.paid", b"{}", now)["Durable-Signature"]
    assert json.loads(first.body) == {"id": f"door:{signature[7:47]}", "duplicate": False}
    assert json.loads(again.body) == {"id": f"door:{signature[7:47]}", "duplicate": True}


def test_a_replay_in_capitals_is_the_same_request(house: House) -> None:
    signed = {**JSON, **sign(SECRET, "order.paid", b"{}")}
    house.knock(b"{}", signed)
    capitals = {**signed, "Durable-Signature": signed["Durable-Signature"].upper()}
    assert json.loads(house.knock(b"{}", capitals).body)["duplicate"] is True


def test_a_request_with_a_token_is_a_new_event_each_time(house: House) -> None:
    assert json.loads(house.knock().body)["id"] != json.loads(house.knock().body)["id"]


def test_secrets_are_rotated_without_a_restart(house: House) -> None:
    assert house.knock_signed(secret="the next secret of both").status == 401
    house.app.conf.durable_door_secrets = ["the next secret of both", SECRET]
    assert house.knock_signed(secret="the next secret of both").status == 202
    assert house.knock_signed(secret=SECRET).status == 202
    house.app.conf.durable_door_secrets = ["the next secret of both"]
    assert house.knock_signed(secret=SECRET).status == 401


@given(st.text('.{}"\\[],:a1 ', max_size=12))
@example('.{\\"payload\\":1}')
@example(".{}")
@example('.{"payload":"')
@settings(max_examples=300, deadline=None)
def test_one_signed_text_is_one_request(text: str) -> None:
    # Given a signed body, when a part of it is passed off as the end of the name, then no body is left.
    for value in ({"payload": text, "key": text}, {"payload": {text: [1.5, text]}}):
        body = json.dumps(value).encode()
        for place in (place for place, letter in enumerate(body) if letter == ord(".")):
            with pytest.raises(door_module._Refusal):
                door_module._parse({"content-type": "application/json"}, body[place + 1 :])


def test_comparing_takes_its_time() -> None:
    """Every candidate is compared with hmac.compare_digest: no == on a secret, no way out of a loop."""
    for function in (door_module._has_token, door_module._signature):
        tree = ast.parse(inspect.getsource(function))
        (loop,) = [node for node in ast.walk(tree) if isinstance(node, ast.For)]
        inside = list(ast.walk(loop))
        assert not [node for node in inside if isinstance(node, (ast.Break, ast.Return, ast.Raise, ast.Compare))]
        assert not [node for node in inside if isinstance(node, (ast.BoolOp, ast.IfExp, ast.Continue))]
        assert [node for node in inside if isinstance(node, ast.Attribute) and node.attr == "compare_digest"]


def test_all_candidates_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        assert isinstance(one, bytes)
        assert isinstance(other, bytes)
        compared.append(one)
        return one == other

    monkeypatch.setattr(door_module.hmac, "compare_digest", compare)
    house = House(
        durable_door_tokens=[TOKEN, TOKEN + "2", TOKEN + "3"], durable_door_secrets=[SECRET, "b" * 16, "c" * 16]
    )
    assert house.knock().status == 202
    assert len(compared) == 3
    compared.clear()
    assert house.knock_signed().status == 202
    assert len(compared) == 3


def test_a_refusal_is_logged_without_the_token(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.knock(headers={"Authorization": "Bearer wrong-and-secret"}, name="x\n" + "y" * 500)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "192.0.2.7" in record.getMessage()
    assert "x\\nyyy" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert "wrong-and-secret" not in record.getMessage()
    assert len(record.getMessage()) < 300


# --------------------------------------------------------------------------------------- how it is shut


@pytest.mark.parametrize(
    "configured",
    [
        {"durable_door_tokens": None, "durable_door_secrets": None},
        {"durable_door_tokens": "", "durable_door_secrets": ""},
        {"durable_door_tokens": ["", ""], "durable_door_secrets": []},
    ],
)
def test_without_keys_the_door_is_shut(configured: dict[str, Any]) -> None:
    house = House(**configured)
    message = refused(house.knock(headers={**JSON, "Authorization": "Bearer "}), 503, "not-configured")
    assert "durable_door_tokens" in message
    assert "durable_door_secrets" in message
    assert house.knock_signed().status == 503
    assert house.emitter.calls == []


def test_an_empty_secret_signs_nothing() -> None:
    house = House(durable_door_secrets=["", SECRET])
    now = str(int(time.time()))
    code = hmac.new(b"", f"{now}.order.paid.{{}}".encode(), hashlib.sha256).hexdigest()
    assert house.knock(headers={"Durable-Timestamp": now, "Durable-Signature": f"sha256={code}"}).status == 401


@pytest.mark.parametrize(
    ("configured", "names"),
    [
        ({"durable_door_tokens": "short"}, "durable_door_tokens"),
        ({"durable_door_secrets": ["short"]}, "durable_door_secrets"),
        ({"durable_door_tokens": [TOKEN, "x" * 15]}, "durable_door_tokens"),
        ({"durable_door_tokens": 7}, "durable_door_tokens"),
        ({"durable_door_tokens": {TOKEN: True}}, "durable_door_tokens"),
        ({"durable_door_secrets": [b"bytes"]}, "durable_door_secrets"),
        ({"durable_door_window": "soon"}, "durable_door_window"),
        ({"durable_door_window": None}, "durable_door_window"),
        ({"durable_max_payload": "much"}, "durable_max_payload"),
        ({"durable_database_url": "postgresql+psycopg://me:hush@host:port/db"}, "settings"),
    ],
)
def test_a_wrong_setting_shuts_the_door(
    configured: dict[str, Any], names: str, caplog: pytest.LogCaptureFixture
) -> None:
    house = House(**configured)
    message = refused(house.knock(), 503, "configuration")
    assert "hush" not in message
    assert names in caplog.text
    assert house.emitter.calls == []


# --------------------------------------------------------------------------------------- what it brings


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "post", ""])
def test_only_post_is_taken(house: House, method: str) -> None:
    answer = house.knock(method=method)
    refused(answer, 405, "method-not-allowed")
    assert answer.headers["Allow"] == "POST"
    assert house.emitter.calls == []


def test_the_method_is_refused_before_anything_is_read(house: House) -> None:
    assert house.knock(method="GET", headers={}, read=_unreadable).status == 405


def test_an_empty_body_is_an_event_without_payload(house: House) -> None:
    assert house.knock(b"", {"Authorization": f"Bearer {TOKEN}"}).status == 202
    assert house.knock(b"", {"Authorization": f"Bearer {TOKEN}"}, streamed=True).status == 202
    assert house.emitter.calls == [("order.paid", None, None, None)] * 2


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON", "application/json; charset=utf-8"])
def test_json_is_taken(house: House, kind: str) -> None:
    assert house.knock(headers={**BEARER, "Content-Type": kind}).status == 202


@pytest.mark.parametrize("kind", ["", "text/plain", "application/jsonp", "application/x-www-form-urlencoded"])
def test_nothing_but_json_is_taken(house: House, kind: str) -> None:
    refused(house.knock(headers={**BEARER, "Content-Type": kind}), 415, "not-json")
    assert house.emitter.calls == []


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{'payload': 1}",
        b'\xef\xbb\xbf{"payload": 1}',
        b'{"payload": "\xff"}',
        '{"payload": "ä"}'.encode("utf-16"),
        b'{"payload": NaN}',
        b'{"payload": Infinity}',
        b'{"payload": -Infinity}',
        b'{"payload": 1e999}',
        b'{"payload": -1e999}',
        b'{"payload": [[1]}',
        b"{} {}",
        b" ",
    ],
)
def test_what_is_no_json_is_refused(house: House, body: bytes) -> None:
    assert "JSON in UTF-8" in refused(house.knock(body), 400, "malformed")
    assert house.emitter.calls == []


def test_deep_json_is_refused() -> None:
    house = House(durable_max_payload=10**6)
    deep = '{"payload": ' + "[" * 200_000 + "]" * 200_000 + "}"
    assert "deep" in refused(house.knock(deep), 400, "malformed")


def test_a_number_of_too_many_digits_is_refused() -> None:
    house = House(durable_max_payload=10**6)
    message = refused(house.knock('{"payload": ' + "9" * 10_000 + "}"), 400, "malformed")
    assert "digits" in message
    assert "sys." not in message


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "null",
        "7",
        '"payload"',
        "[{}]",
        '{"data": 1}',
        '{"payload": 1, "name": "x"}',
        '{"Payload": 1}',
        '{"key": 1}',
        '{"key": null}',
        '{"key": ["a"]}',
        '{"event_id": 1}',
        '{"event_id": null}',
        '{"event_id": {}}',
    ],
)
def test_a_wrong_shape_is_refused(house: House, body: str) -> None:
    assert '"' in refused(house.knock(body), 422, "wrong-shape")
    assert house.emitter.calls == []


@pytest.mark.parametrize("payload", [None, True, 0, 1.5, "", "ä\u2028", [], {}, {"NaN": [1, {"": None}]}])
def test_any_json_is_a_payload(house: House, payload: Any) -> None:
    assert house.knock(json.dumps({"payload": payload})).status == 202
    assert house.emitter.calls[0][1] == payload


# ------------------------------------------------------------------------------------------- how much


def _unreadable(size: int) -> bytes:
    raise AssertionError("the body was read")


class Endless:
    """A body without an end, in small pieces."""

    def __init__(self) -> None:
        self.given = 0

    def read(self, size: int) -> bytes:
        piece = b"x" * min(size, 1000)
        self.given += len(piece)
        return piece


def test_a_body_over_the_limit_is_not_read(house: House) -> None:
    answer = house.door.receive("POST", "order.paid", BEARER, _unreadable, LIMIT + 1)
    assert str(LIMIT) in refused(answer, 413, "body-too-large")
    assert house.emitter.calls == []


@pytest.mark.parametrize("headers", [BEARER, {}])
def test_a_stream_is_read_up_to_the_limit(house: House, headers: dict[str, str]) -> None:
    endless = Endless()
    answer = house.door.receive("POST", "order.paid", headers, endless.read, None)
    refused(answer, 413, "body-too-large")
    assert endless.given == LIMIT + 1


@pytest.mark.parametrize("streamed", [True, False])
def test_a_body_of_the_very_limit_is_taken(house: House, streamed: bool) -> None:
    body = '{"payload": 1' + " " * (LIMIT - 14) + "}"
    assert len(body) == LIMIT
    assert house.knock(body, streamed=streamed).status == 202
    assert house.knock(body + " ", streamed=streamed).status == 413


def test_a_body_in_pieces_is_put_together(house: House) -> None:
    rest = io.BytesIO(b'{"payload": "in pieces"}')
    answer = house.knock(b'{"payload": "in pieces"}', read=lambda size: rest.read(min(size, 5)))
    assert answer.status == 202
    assert house.emitter.calls[0][1] == "in pieces"


def test_no_more_than_content_length_is_asked_for(house: House) -> None:
    # Given a connection that stays open, reading on would wait for ever.
    rest = io.BytesIO(b"{}the next request")
    assert house.knock(b"{}", read=rest.read).status == 202
    assert rest.tell() == 2


def test_a_body_that_got_lost_is_not_an_empty_one(house: House) -> None:
    refused(house.knock(b'{"payload": 1}', read=lambda _: b""), 400, "incomplete")
    refused(house.door.receive("POST", "x", BEARER, io.BytesIO().read, -1), 400, "incomplete")
    chunked = {**BEARER, "Transfer-Encoding": "chunked"}
    refused(house.knock(b"", chunked, streamed=True), 411, "length-required")
    assert house.emitter.calls == []
    assert house.knock(b"{}", chunked, streamed=True).status == 202


def test_a_client_that_hangs_up_is_no_error_of_the_server(house: House) -> None:
    def hung_up(_: int) -> bytes:
        raise ConnectionResetError

    refused(house.knock(read=hung_up), 400, "incomplete")


@pytest.mark.parametrize(
    ("header", "length"),
    [(None, None), ("", None), ("0", 0), ("17", 17), ("-1", -1), ("+1", -1), ("²", -1), ("1_0", -1), ("9" * 5000, -1)],
)
def test_content_length_is_digits(header: str | None, length: int | None) -> None:
    assert content_length(header) == length


# --------------------------------------------------------------------------------- what emitting says


class _Psycopg(Exception):
    """What a driver raises."""


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ValueError("an event's name can't end with a space"), 422, "wrong-event"),
        (TypeError("an event's key is a string"), 422, "wrong-event"),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), 422, "wrong-event"),
        (RecursionError(), 422, "wrong-event"),
        (NotSerializable("at INTERNAL"), 422, "not-serializable"),
        (PayloadTooLarge("INTERNAL"), 413, "payload-too-large"),
        (EventConflict("INTERNAL"), 409, "event-conflict"),
        (ConfigurationError("postgresql://me@INTERNAL/db lacks the tables"), 503, "configuration"),
        (DurableError("INTERNAL"), 503, "durable-error"),
        (OperationalError("SELECT INTERNAL", {}, _Psycopg("INTERNAL")), 503, "unavailable"),
        (IntegrityError("SELECT INTERNAL", {}, _Psycopg("INTERNAL")), 503, "unavailable"),
        (PoolTimeout("QueuePool INTERNAL"), 503, "unavailable"),
        (DataError("INSERT INTERNAL", {}, _Psycopg("a NUL byte")), 422, "not-storable"),
    ],
)
def test_what_emit_raises_is_told_without_internals(house: House, error: Exception, status: int, code: str) -> None:
    house.emitter.error = error
    message = refused(house.knock(), status, code)
    assert message
    assert "INTERNAL" not in message


def test_what_is_wrong_with_a_name_is_told(house: House) -> None:
    house.emitter.error = ValueError("'a ' can't be an event's name")
    assert refused(house.knock(), 422, "wrong-event") == "'a ' can't be an event's name"


def test_a_database_that_is_away_is_logged_without_the_payload(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.emitter.error = OperationalError("INSERT", {"payload": "private"}, _Psycopg("connection refused"))
    assert house.knock().headers["Retry-After"] == "5"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "connection refused" in record.getMessage()
    assert "private" not in caplog.text


# ---------------------------------------------------------------------------------------- whatever comes

HEADERS = st.dictionaries(
    st.sampled_from(
        ["Authorization", "Content-Type", "Durable-Timestamp", "Durable-Signature", "Transfer-Encoding", "X"]
    ),
    st.one_of(
        st.text(max_size=30),
        st.sampled_from(["Bearer", "Bearer ", "application/json", "sha256=", "chunked", "1700000000", "sha256=\udcff"]),
        st.binary(max_size=20).map(lambda raw: raw.decode("latin-1")),
    ),
)
BODIES = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["payload", "key", "x"]), inner),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)
LENGTHS = st.one_of(st.none(), st.integers(-2, 70), st.just(LIMIT + 1))
NAMES = st.text(st.characters(exclude_categories=()), max_size=20)
FUZZ = settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
STATUSES = {202, 400, 401, 405, 411, 413, 415, 422}


@given(method=st.sampled_from(["POST", "GET", "\ud800"]), name=NAMES, headers=HEADERS, body=BODIES, length=LENGTHS)
@FUZZ
def test_strangers_never_emit(
    house: House, method: str, name: str, headers: dict[str, str], body: bytes, length: int | None
) -> None:
    answer = house.door.receive(method, name, headers, io.BytesIO(body).read, length, None)
    assert answer.status in STATUSES - {202}
    assert house.emitter.calls == []
    assert json.loads(answer.body)["error"]["message"]


@given(name=NAMES, headers=HEADERS, body=BODIES, length=LENGTHS, signed=st.booleans(), right=st.booleans())
@FUZZ
def test_friends_may_send_what_they_like(
    house: House, name: str, headers: dict[str, str], body: bytes, length: int | None, signed: bool, right: bool
) -> None:
    house.emitter.calls.clear()
    credentials = sign(SECRET, name, body) if signed else {"Authorization": f"Bearer {TOKEN}"}
    headers = {**headers, **credentials, **(JSON if right else {})}
    answer = house.door.receive("POST", name, headers, io.BytesIO(body).read, len(body) if right else length, None)
    assert answer.status in STATUSES
    assert len(house.emitter.calls) == (answer.status == 202)
    if right:
        assert answer.status in {202, 400, 422}


def test_the_door_knows_no_framework() -> None:
    tree = ast.parse(Path(inspect.getfile(door_module)).read_text())
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} | {
        name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    assert not {name.partition(".")[0] for name in imported} & {"flask", "django", "werkzeug", "starlette", "fastapi"}
