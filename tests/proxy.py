"""A TCP proxy in front of a service, whose connections a test can cut or hold up."""

from __future__ import annotations

import contextlib
import select
import socket
import threading


class Proxy:
    """Forwards a local port to a service. While it is cut, connections are refused; while it is held up, nothing gets
    through them."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._flows = threading.Event()
        self._flows.set()
        self.port = 0
        self.restore()

    def restore(self) -> None:
        """Let connections through (again)."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Break all connections, and refuse new ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            sockets, self._open = self._open, set()
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def hold_up(self) -> None:
        """Keep what is sent, until :meth:`let_flow`: a network that has lost its way."""
        self._flows.clear()

    def let_flow(self) -> None:
        self._flows.set()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._open |= {client, server}
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while self._pass_on(client, server):
                pass
        with self._lock:
            self._open -= {client, server}
        for one in (client, server):  # who is gone on the one side is gone for the other
            one.close()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> bool:
        """What has come from either of them; whether there will be more."""
        readable, _, _ = select.select([client, server], [], [])
        self._flows.wait()
        for source in readable:
            data = source.recv(65536)
            if not data:
                return False
            (server if source is client else client).sendall(data)
        return True
