"""A browser without a screen, which keeps cookies as browsers do, before whatever it is that answers."""

from __future__ import annotations

import asyncio
import http.client
import io
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import unescape
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import unquote, urlencode, urljoin, urlsplit

__all__ = ["Answer", "Browser", "HTML", "by_asgi", "by_http", "by_wsgi"]

HTML = {"Accept": "text/html"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def header(self, name: str) -> str:
        return ", ".join(value for key, value in self.headers if key.lower() == name.lower())

    @property
    def mark(self) -> str:
        """What the forms of the page send along."""
        found = re.search(r'name="mark" value="([^"]*)"', self.text)
        return found[1] if found else ""

    def links(self) -> list[str]:
        """Where it leads, but for what is of the page itself."""
        return [unescape(link) for link in re.findall(r'(?:href|src|action)="([^"#?][^"]*)"', self.text)]


Transport = Callable[[str, str, list[tuple[str, str]], bytes], Answer]
"""Sends a method, an address, headers and a body."""


@dataclass
class Browser:
    send: Transport
    prefix: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    cookies: dict[tuple[str, str], str] = field(default_factory=dict)
    host: str = "localhost"

    def get(self, path: str, headers: Mapping[str, str] = HTML) -> Answer:
        """A page of the console."""
        return self.request("GET", f"{self.prefix}{path}", headers)

    def post(self, path: str, headers: Mapping[str, str] = HTML, /, **form: str) -> Answer:
        """A form that is sent."""
        sent = {"Content-Type": "application/x-www-form-urlencoded", **headers}
        return self.request("POST", f"{self.prefix}{path}", sent, urlencode(form).encode())

    def act(self, path: str, **form: str) -> Answer:
        """Open the page of an action, and send its form if it has one."""
        asked = self.get(path)
        if asked.status != 200:
            return asked
        assert asked.mark, asked.text
        return self.post(path, mark=asked.mark, reason="it was looked at", **form)

    def request(self, method: str, address: str, headers: Mapping[str, str] = HTML, body: bytes = b"") -> Answer:
        path = urlsplit(address).path
        cookies = "; ".join(
            f"{name}={value}"
            for (name, at), value in self.cookies.items()
            if path == at or path.startswith(at.rstrip("/") + "/")
        )
        sent = {"Host": self.host, "Content-Length": str(len(body)), **self.headers, **headers}
        if cookies:
            sent["Cookie"] = cookies
        answer = self.send(method, address, list(sent.items()), body)
        for name, value in answer.headers:
            if name.lower() == "set-cookie":
                self._keep(value)
        return answer

    def follow(self, answer: Answer) -> Answer:
        """Go where it leads."""
        assert answer.status in (301, 302, 303, 307, 308), (answer.status, answer.text[:500])
        where = urlsplit(urljoin("http://localhost/", answer.header("Location")))
        return self.request("GET", where.path + (f"?{where.query}" if where.query else ""))

    def _keep(self, value: str) -> None:
        for name, morsel in SimpleCookie(value).items():
            if morsel["max-age"] == "0":
                self.cookies.pop((name, morsel["path"]), None)
            else:
                self.cookies[name, morsel["path"]] = morsel.value


def by_wsgi(app: Any) -> Transport:
    """Call a WSGI application as a server does."""

    def send(method: str, address: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        parts = urlsplit(address)
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": unquote(parts.path, "latin-1"),
            "QUERY_STRING": parts.query,
            "SERVER_NAME": "localhost",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(body),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
        }
        for name, value in headers:
            key = name.upper().replace("-", "_")
            environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
        started: list[Any] = []
        content = app(environ, lambda status, sent, exc_info=None: started.extend((status, sent)))
        return Answer(int(started[0].split()[0]), list(started[1]), b"".join(content))

    return send


def by_asgi(app: Any, part: int = 65536) -> Transport:
    """Call an ASGI application as a server does: the whole path, and the body in parts."""

    def send(method: str, address: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        return asyncio.run(ask(method, address, headers, body))

    async def ask(method: str, address: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        parts = urlsplit(address)
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(parts.path),
            "raw_path": parts.path.encode(),
            "root_path": "",
            "query_string": parts.query.encode(),
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
            "server": ("localhost", 80),
            "client": ("127.0.0.1", 5000),
        }
        pieces = [body[at : at + part] for at in range(0, len(body), part)] or [b""]
        told: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        async def tell(message: dict[str, Any]) -> None:
            told.append(message)

        await app(scope, receive, tell)
        found = [(name.decode(), value.decode("latin-1")) for name, value in told[0]["headers"]]
        return Answer(told[0]["status"], found, b"".join(message.get("body", b"") for message in told[1:]))

    return send


def by_http(url: str) -> Transport:
    """Ask a server."""
    host = urlsplit(url).netloc

    def send(method: str, address: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        connection = http.client.HTTPConnection(host, timeout=20)
        try:
            own = dict(headers)
            if own.get("Host") == "localhost":
                own["Host"] = host
            connection.request(method, address, body, own)
            response = connection.getresponse()
            return Answer(response.status, response.getheaders(), response.read())
        finally:
            connection.close()

    return send
