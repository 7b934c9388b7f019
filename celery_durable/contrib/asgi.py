"""FastAPI, Starlette and any other ASGI site: the door through which outside systems emit events.

api.mount("/durable", events_app(celery_app))

The console is an ASGI application itself: ``Console(celery_app).asgi``.
"""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any

from ..errors import ConfigurationError
from .door import Answer, Door, content_length, refusal

__all__ = ["events_app"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_PATH = re.compile(r"/events/([^/]+)")


def events_app(app: Any) -> Callable[[Message, Receive, Send], Coroutine[Any, Any, None]]:
    """An ASGI application with the one route ``POST /events/<name>``, for a Celery app or its ``Durable``.

    Who may use it, and what is sent, says :mod:`celery_durable.contrib.door`.
    """
    door = Door(app)

    async def events(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})  # before it is accepted: refused
        elif (answer := await _answered(door, scope, receive)) is not None:
            headers = [
                (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers.items()
            ]
            headers.append((b"content-length", str(len(answer.body)).encode()))
            await send({"type": "http.response.start", "status": answer.status, "headers": headers})
            await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})

    return events


async def _answered(door: Door, scope: Message, receive: Receive) -> Answer | None:
    """The door's answer; ``None`` if the client has gone."""
    match = _PATH.fullmatch(_path(scope))
    if match is None:
        return refusal(404, "not-found", "Events are emitted with POST at .../events/<name>.")
    headers = _headers(scope)
    length = content_length(headers.get("content-length"))
    body = await _read(receive, 0 if scope["method"] != "POST" else await asyncio.to_thread(_most, door, length))
    if body is None:
        return None
    client = (scope.get("client") or [None])[0]
    # It writes to the database and the broker, which block.
    return await asyncio.to_thread(
        door.receive, scope["method"], match[1], headers, io.BytesIO(body).read, length, client
    )


def _most(door: Door, length: int | None) -> int:
    """How many bytes to read: none of a body that is refused whatever it holds."""
    try:
        largest = door.largest_body()
    except ConfigurationError:  # the door says so itself
        return 0
    return 0 if length is not None and length > largest else largest + 1


async def _read(receive: Receive, most: int) -> bytes | None:
    """The body up to so many bytes."""
    body = b""
    while len(body) < most:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return body[:most]


def _headers(scope: Message) -> dict[str, str]:
    """By their names in lower case. One that comes twice is both values, as WSGI servers have it."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def _path(scope: Message) -> str:
    """The path below the prefix that we are mounted under, which servers and Starlette leave in it."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
