"""Consoles that are served on ports of their own, as ``durable console`` serves them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

__all__ = ["Served"]


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        """Nothing: what goes wrong is seen in the browser."""


class Served:
    """A WSGI application that answers on a port, which stays the same when it is stopped and started again."""

    def __init__(self, application: Callable[..., Any]) -> None:
        self._application = application
        self.answered: list[tuple[str, int]] = []
        """Each request's path, and the status of its answer."""
        self._port = 0
        self._server: BaseWSGIServer | None = None
        self.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        server = make_server("127.0.0.1", self._port, self._watched, threaded=True, request_handler=_Quiet)
        self._port = server.port
        self._server = server
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        """Until it is started again nothing answers there."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _watched(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        def start(status: str, *rest: Any) -> Any:
            self.answered.append((environ["PATH_INFO"], int(status.split()[0])))
            return start_response(status, *rest)

        return self._application(environ, start)
