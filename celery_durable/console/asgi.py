"""The console behind an ASGI server. It reads a database that blocks, so each request is answered on a thread."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from werkzeug.wrappers import Response

from .paths import wsgi_path

if TYPE_CHECKING:
    from .site import Console

__all__ = ["AsgiApp"]

Message = MutableMapping[str, Any]
Headers = list[tuple[bytes, bytes]]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_PATIENCE = 16
"""How many times the largest body is read to its end before it is refused, so that the client gets to hear of it."""


class AsgiApp:
    """An ASGI application that answers as its console does."""

    def __init__(self, console: Console, largest_body: int) -> None:
        self._console = console
        self._largest = largest_body

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})  # before it is accepted: refused
        elif scope["type"] == "http":
            body = await _read(receive, self._largest)
            if body is not None:
                status, headers, content = await asyncio.to_thread(self._answer, _environ(scope, *body))
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": content})
        else:
            raise ValueError(f"the console speaks HTTP alone, and was asked for {scope['type']!r}")

    def _answer(self, environ: dict[str, Any]) -> tuple[int, Headers, bytes]:
        answer = Response.from_app(self._console, environ, buffered=True)
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers]
        return answer.status_code, headers, answer.get_data()


async def _live(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _read(receive: Receive, largest: int) -> tuple[bytes, int] | None:
    """The body and its length; ``None`` if the client has gone. What is too long is not kept: its length refuses it."""
    parts, length = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        length += len(part)
        if length <= largest:
            parts.append(part)
        else:
            parts.clear()
        if not message.get("more_body", False) or length > _PATIENCE * largest:
            return b"".join(parts), length


def _environ(scope: Message, body: bytes, length: int) -> dict[str, Any]:
    root = scope.get("root_path", "").rstrip("/")
    host, port = scope.get("server") or ("localhost", 80)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": wsgi_path(root),
        "PATH_INFO": wsgi_path(_path(scope, root)),
        "QUERY_STRING": scope.get("query_string", b"").decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{scope.get('http_version', '1.1')}",
        "SERVER_NAME": host if port else "localhost",  # a socket that is a file has no port
        "SERVER_PORT": str(port or 80),
        "CONTENT_LENGTH": str(length),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "asgi.scope": scope,
    }
    if scope.get("client"):
        environ["REMOTE_ADDR"] = scope["client"][0]
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if "_" in name:  # another header's name would become the same
            continue
        key = name.upper().replace("-", "_")
        if key == "CONTENT_TYPE":
            environ[key] = value
        elif key != "CONTENT_LENGTH":
            key = f"HTTP_{key}"
            between = "; " if key == "HTTP_COOKIE" else ","
            environ[key] = f"{environ[key]}{between}{value}" if key in environ else value
    return environ


def _path(scope: Message, root: str) -> str:
    """The path below the prefix that we are mounted under.

    A server's path has the prefix in it, and so has that of Starlette's ``Mount`` from 0.33 on; before, it took the
    prefix out of the path, and left it in what was sent.
    """
    path: str = scope["path"]
    sent = unquote(scope.get("raw_path", b"").decode("latin-1"))
    whole = not sent or sent == path
    if root and whole and f"{path}/".startswith(f"{root}/"):
        path = path[len(root) :]
    return path or "/"
