"""The door: how systems outside of Celery emit events over HTTP, whatever the web framework.

    POST <prefix>/events/<name>      {"payload": <any JSON>, "key": "<string>", "event_id": "<string>"}

All members of the body may be left out. The door is shut until the Celery configuration has a key for it:

- ``durable_door_tokens``: the client sends one of them as ``Authorization: Bearer <token>``.
- ``durable_door_secrets``: the client signs each request with one of them, as :func:`sign` does.
  A signature is good for ``durable_door_window``, and the same request sent again within it counts once.

A request goes through one sequence of checks, each of which may refuse it, and the last thing that is done
is to emit. Nothing of it is kept before that, so a refused request leaves no trace but a line in the log.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy.exc import DataError, SQLAlchemyError

from ..core.duration import SECOND, micros
from ..errors import ConfigurationError, DurableError, EventConflict, NotSerializable, PayloadTooLarge
from ..model import EventReceipt
from ..worker.durable import Durable
from ..worker.runtime import runtime_of

__all__ = ["Answer", "Door", "content_length", "refusal", "shut", "sign"]

logger = logging.getLogger("celery_durable")

SHORTEST_KEY = 16
ENVELOPE = 4096
"""How much longer than the largest payload a body may be: its other members, and white space."""

_MEMBERS = {"payload", "key", "event_id"}
_TIMESTAMP = re.compile(r"[0-9]{1,12}")
_RETRY_AFTER = {"Retry-After": "5"}


@dataclass(frozen=True)
class Answer:
    """What a web framework is to send back."""

    status: int
    body: bytes
    headers: dict[str, str]


class Emit(Protocol):
    """``Durable.emit``, as far as the door calls it."""

    def __call__(
        self, name: str, payload: Any = None, *, key: str | None = None, event_id: str | None = None
    ) -> EventReceipt: ...


def sign(secret: str, name: str, body: bytes, timestamp: int | None = None) -> dict[str, str]:
    """The headers that sign a request, for a client to send with it::

        body = json.dumps({"payload": {"order": 7}}).encode()
        headers = {"Content-Type": "application/json", **sign(secret, "order.paid", body)}
        requests.post("https://shop.example/durable/events/order.paid", data=body, headers=headers)

    ``body`` must be the very bytes that are sent, ``name`` the event's name before it is quoted for the URL.
    ``timestamp`` is in seconds since the epoch, and now by default. In any other language: the hex HMAC-SHA256,
    keyed with the secret, of the timestamp, a dot, the name, a dot, and the body.
    """
    if not secret:
        raise ValueError("the secret is empty: hand over one of durable_door_secrets")
    when = str(int(time.time() if timestamp is None else timestamp))
    return {"Durable-Timestamp": when, "Durable-Signature": f"sha256={_hmac(secret, when, name, body)}"}


def content_length(value: str | None) -> int | None:
    """A ``Content-Length`` header as a number: ``None`` without one, and -1 for what is no length."""
    if not value:
        return None
    return int(value) if re.fullmatch(r"[0-9]{1,18}", value) else -1


def shut(error: ConfigurationError) -> Answer:
    """The answer of a door that is not set up right. What is wrong stands in the log, and is not told outside."""
    logger.error("the door for events is shut: %s", error)
    return refusal(503, error.code, "This door is shut: the server is not configured right, and its log says where.")


def refusal(status: int, code: str, message: str) -> Answer:
    """An answer other than 202."""
    return _Refusal(status, code, message).answer()


class Door:
    """Takes requests to emit events for one Celery app, which may be handed over as its ``Durable``.

    ``emit`` is ``Durable(app).emit`` unless given.
    """

    def __init__(self, app: Any, emit: Emit | None = None) -> None:
        self._app = app.app if isinstance(app, Durable) else app
        self._emit = emit

    def receive(
        self,
        method: str,
        name: str,
        headers: Mapping[str, str],
        read: Callable[[int], bytes],
        length: int | None,
        remote: str | None = None,
    ) -> Answer:
        """Answer one request. ``read(n)`` reads up to n bytes of the body, ``b""`` at its end; ``length`` is
        its ``Content-Length``, if it has one; ``remote`` is the client's address, for the log."""
        try:
            if method != "POST":
                raise _Refusal(405, "method-not-allowed", "Events are emitted with POST.", {"Allow": "POST"})
            given = {key.lower(): value for key, value in headers.items()}
            keys = _Keys.of(self._app)
            body = _read_body(given, read, length, self.largest_body())
            signature = _authenticate(keys, given, name, body, remote)
            payload, key, event_id = _parse(given, body)
            if event_id is None and signature is not None:
                event_id = f"door:{signature[:40]}"
            receipt = self._do_emit(name, payload, key, event_id)
        except _Refusal as refusal:
            return refusal.answer()
        except ConfigurationError as error:
            return shut(error)
        return _answer(202, {"id": receipt.id, "duplicate": receipt.duplicate})

    def largest_body(self) -> int:
        """How many bytes a body may have. Raises ``ConfigurationError``."""
        try:
            return runtime_of(self._app).settings.max_payload + ENVELOPE
        except (SQLAlchemyError, ValueError, TypeError) as error:  # such as a database URL whose port is no number
            raise ConfigurationError(f"the settings of celery_durable can't be read: {error}") from error

    def _do_emit(self, name: str, payload: Any, key: str | None, event_id: str | None) -> EventReceipt:
        if self._emit is None:
            self._emit = Durable(self._app).emit
        try:
            return self._emit(name, payload, key=key, event_id=event_id)
        except ConfigurationError:
            raise
        except EventConflict as error:
            raise _Refusal(
                409,
                error.code,
                "An event of this event_id was emitted before, with another name, key or payload: "
                "send this one under an event_id of its own.",
            ) from error
        except PayloadTooLarge as error:
            raise _Refusal(
                413, error.code, "The payload is too large: send what others need to find it, such as an id."
            ) from error
        except NotSerializable as error:
            raise _Refusal(422, error.code, "The payload can't be stored: nest it less deeply.") from error
        except DataError as error:
            raise _Refusal(
                422, "not-storable", "The database can't hold this name, key or event_id: use printable characters."
            ) from error
        except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
            raise _Refusal(422, "wrong-event", _told(error)) from error
        except SQLAlchemyError as error:
            # The driver's own words: SQLAlchemy's hold the statement and, with it, the payload.
            logger.error(
                "the event %s of the door was not recorded: %s", _cut(name), getattr(error, "orig", None) or error
            )
            raise _Refusal(
                503,
                "unavailable",
                "The event could not be recorded: the database is away. Send it again, with the same event_id.",
                _RETRY_AFTER,
            ) from error
        except DurableError as error:
            logger.exception("the event %s of the door was not recorded", _cut(name))
            raise _Refusal(
                503, error.code, "The event could not be recorded, and the server's log says why."
            ) from error


# ------------------------------------------------------------------------------------------- who it is


@dataclass(frozen=True)
class _Keys:
    """What opens the door, as configured at this moment: keys are rotated without a restart."""

    tokens: tuple[str, ...] = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    window: int

    @classmethod
    def of(cls, app: Any) -> _Keys:
        tokens, secrets = _strings(app, "durable_door_tokens"), _strings(app, "durable_door_secrets")
        if not tokens and not secrets:
            raise _Refusal(
                503,
                "not-configured",
                "This door is shut: set durable_door_tokens or durable_door_secrets in the Celery configuration.",
            )
        for setting, keys in (("durable_door_tokens", tokens), ("durable_door_secrets", secrets)):
            if any(len(key) < SHORTEST_KEY for key in keys):
                raise ConfigurationError(
                    f"{setting} holds one shorter than {SHORTEST_KEY} characters, which can be guessed: make one with  "
                    "python -c 'import secrets; print(secrets.token_urlsafe())'"
                )
        window = app.conf.get("durable_door_window", "5m")
        try:
            return cls(tokens, secrets, micros(window))
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"the setting durable_door_window is {window!r}: {error}") from error


def _strings(app: Any, setting: str) -> tuple[str, ...]:
    given = app.conf.get(setting, None) or ()
    found = (given,) if isinstance(given, str) else given
    if not isinstance(found, (list, tuple, set, frozenset)) or not all(isinstance(item, str) for item in found):
        raise ConfigurationError(f"the setting {setting} must be a string or a list of strings")
    return tuple(item for item in found if item)


def _authenticate(keys: _Keys, headers: Mapping[str, str], name: str, body: bytes, remote: str | None) -> str | None:
    """The signature of a signed request, ``None`` for one with a token. Anything else is refused."""
    signature = _signature(keys, headers, name, body)
    if signature is not None:
        return signature
    if _has_token(keys, headers):
        return None
    logger.warning("refused the event %s from %s: no valid token or signature", _cut(name), _cut(remote))
    raise _Refusal(
        401,
        "unauthorized",
        "No valid credentials: send Authorization: Bearer <token>, or Durable-Timestamp and Durable-Signature "
        "over the very bytes of the body, made with a clock that is right.",
        {"WWW-Authenticate": "Bearer"},
    )


def _has_token(keys: _Keys, headers: Mapping[str, str]) -> bool:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    found = False
    for token in keys.tokens:  # each is compared to its end, so that the time taken tells nothing about any
        found |= hmac.compare_digest(_utf8(token), _wire(given.strip(" ")))
    return found and scheme.lower() == "bearer"


def _signature(keys: _Keys, headers: Mapping[str, str], name: str, body: bytes) -> str | None:
    """The hex signature as computed here: the client's may differ in case, and must not make another event of it."""
    when, given = headers.get("durable-timestamp", ""), headers.get("durable-signature", "")
    if not _TIMESTAMP.fullmatch(when):
        return None
    found = None
    for secret in keys.secrets:
        expected = _hmac(secret, when, name, body)
        if hmac.compare_digest(f"sha256={expected}".encode(), _wire(given.strip(" ").lower())):
            found = expected
    fresh = abs(time.time_ns() // 1000 - int(when) * SECOND) <= keys.window
    return found if fresh else None


def _hmac(secret: str, when: str, name: str, body: bytes) -> str:
    # A name may hold dots, and still one text is one request: the body is a JSON object or empty, and what follows
    # a dot inside of a JSON object is no JSON object, since a quote that was open there would pair up wrongly.
    text = _utf8(f"{when}.{name}.") + body
    return hmac.new(_utf8(secret), text, hashlib.sha256).hexdigest()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _wire(header: str) -> bytes:
    """The bytes of a header, which WSGI and ASGI servers hand over as Latin-1."""
    return header.encode("latin-1", "replace")


# --------------------------------------------------------------------------------------- what it brings


def _read_body(headers: Mapping[str, str], read: Callable[[int], bytes], length: int | None, limit: int) -> bytes:
    """The whole body, of which at most one byte more than allowed is ever read."""
    too_large = _Refusal(413, "body-too-large", f"The body is larger than the {limit} bytes that are taken.")
    if length is not None and length > limit:
        raise too_large
    pieces, left = [], limit + 1 if length is None else length
    try:
        while left > 0 and (piece := read(left)):
            pieces.append(piece)
            left -= len(piece)
    except OSError as error:  # the client hung up; Django's UnreadablePostError is one, too
        raise _Refusal(400, "incomplete", "The body could not be read to its end.") from error
    body = b"".join(pieces)
    if length is None and len(body) > limit:
        raise too_large
    # An empty body is an event without a payload, so that one which got lost on the way must not pass for it.
    if length is not None and len(body) != length:
        raise _Refusal(400, "incomplete", "The body does not have the length that Content-Length says.")
    if not body and length is None and headers.get("transfer-encoding"):
        raise _Refusal(411, "length-required", "This server takes no chunked body: send it with a Content-Length.")
    return body


def _parse(headers: Mapping[str, str], body: bytes) -> tuple[Any, str | None, str | None]:
    """The payload, the key and the event's id."""
    if not body:
        return None, None, None
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _Refusal(415, "not-json", "Send the body as JSON, with Content-Type: application/json.")
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)
    except RecursionError as error:
        raise _Refusal(400, "malformed", "The body is nested too deeply.") from error
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are some
        raise _Refusal(400, "malformed", f"The body is no JSON in UTF-8: {_where(error)}.") from error
    if not isinstance(found, dict):
        raise _Refusal(422, "wrong-shape", 'The body must be a JSON object: {"payload": ...}.')
    if not _MEMBERS.issuperset(found):
        raise _Refusal(
            422,
            "wrong-shape",
            'The body may only have the members "payload", "key" and "event_id": move others into "payload".',
        )
    for member in ("key", "event_id"):
        if member in found and not isinstance(found[member], str):
            raise _Refusal(422, "wrong-shape", f'"{member}" must be a string, or be left out.')
    return found.get("payload"), found.get("key"), found.get("event_id")


class _WrongNumber(ValueError):
    """A number that JSON, or a double, does not have."""


def _no_constant(name: str) -> Any:
    raise _WrongNumber(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):  # 1e999 is JSON, and would become Infinity
        raise _WrongNumber("a number is too large for a double")
    return number


def _where(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} can't be decoded"
    if isinstance(error, (json.JSONDecodeError, _WrongNumber)):
        return str(error)
    return "a number has too many digits"  # Python's own limit, whose message is for programmers


# ------------------------------------------------------------------------------------- what is answered


class _Refusal(Exception):
    """Ends a request with an answer other than 202."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, code, message)
        self.status, self.code, self.message, self.headers = status, code, message, dict(headers or {})

    def answer(self) -> Answer:
        return _answer(self.status, {"error": {"code": self.code, "message": self.message}}, self.headers)


def _answer(status: int, content: Any, headers: Mapping[str, str] | None = None) -> Answer:
    body = json.dumps(content).encode() + b"\n"
    return Answer(status, body, {"Content-Type": "application/json", "Cache-Control": "no-store", **(headers or {})})


def _told(error: Exception) -> str:
    """What ``emit`` says against a name or key, which is written for whoever chose it."""
    if type(error) in (ValueError, TypeError) and str(error):
        return str(error)[:300]
    return "The name, key, event_id or payload can't be taken: use printable characters, and nest less deeply."


def _cut(text: object) -> str:
    """Client's text for the log: without line breaks of its own, and not longer than a line."""
    return repr(text)[:100]
