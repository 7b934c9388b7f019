"""The wire between a store and its database: a proxy that loses one request, or one answer, on purpose."""

from __future__ import annotations

import contextlib
import select
import socket

from sqlalchemy import Connection, make_url

from celery_durable.store.dialects import socket_of
from tests.proxy import Proxy

PORTS = {"postgresql": 5432, "mysql": 3306}
UNSENT, UNANSWERED, SILENT = "unsent", "unanswered", "silent"
"""The request does not arrive; or it does, and the answer is lost, with the connection or without a word."""


class Wire(Proxy):
    """A proxy in front of the server of a URL."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.kind = parsed.get_backend_name()
        self._losing: dict[int, str] = {}
        self.is_frozen = False
        """Nothing gets out any more, on no connection; what was open then stays silent for good."""
        super().__init__(parsed.host or "127.0.0.1", parsed.port or PORTS[self.kind])
        self.url = parsed.set(host="127.0.0.1", port=self.port).render_as_string(hide_password=False)

    def lose(self, connection: Connection, how: str) -> None:
        """Lose what this connection asks next, or what it is answered."""
        held = socket_of(connection.connection.driver_connection)
        assert held is not None
        with held:
            self._losing[held.getsockname()[1]] = how

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._forward_until_lost(client, server)
        for one in (client, server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _forward_until_lost(self, client: socket.socket, server: socket.socket) -> None:
        port, kept = client.getpeername()[1], b""
        while True:
            readable, _, _ = select.select([client, server], [], [])
            for source in readable:
                data = source.recv(65536)
                if self.is_frozen:
                    self._losing[port] = SILENT
                how = self._losing.get(port)
                if not data or (source is client and how == UNSENT):
                    return
                if source is client:
                    server.sendall(data)
                elif how is None:
                    client.sendall(data)
                elif how == UNANSWERED:
                    kept += data
                    if self._is_answer(kept):
                        return
                    if kept.endswith(b"Z\x00\x00\x00\x05I"):  # it was only prepared
                        client.sendall(kept)
                        kept = b""

    def _is_answer(self, data: bytes) -> bool:
        """Whether the server has done what it was asked for. On MySQL it says nothing before."""
        if self.kind == "mysql":
            return True
        kinds, at = set(), 0
        while at + 5 <= len(data):
            kinds.add(data[at : at + 1])
            at += 1 + int.from_bytes(data[at + 1 : at + 5], "big")
        return at == len(data) and b"Z" in kinds and bool(kinds & {b"C", b"E"})
