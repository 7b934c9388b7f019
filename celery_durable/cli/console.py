"""``console``: the web console, served from here."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from ..client import this_user
from .session import Session, session

if TYPE_CHECKING:
    from werkzeug.wrappers import Request

__all__ = ["console"]


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8585, show_default=True, help="0 takes a free one.")
@click.option("--read-only", is_flag=True, help="Show everything, change nothing.")
@click.option("--proxies", type=click.IntRange(0, 9), default=0, help="Reverse proxies before it.")
@session
def console(session: Session, host: str, port: int, read_only: bool, proxies: int) -> None:
    """Serve the web console.

    On this machine alone, unless the Celery configuration says who may come in: durable_console_tokens or
    durable_console_users.
    """
    try:
        from ..console import Console
    except ImportError as error:
        raise click.ClickException(str(error)) from error
    session.load_tasks()
    if read_only:
        session.app.conf.durable_console_read_only = True
    site = Console(session.app, proxies=proxies)
    if site.access.is_closed:
        _refuse_the_world(host, proxies)
        site = Console(session.app, identify=_this_machine)
    session.durable.identity()  # a database that is away, or has no tables, is told here and not by each page
    with _listening(host, port) as socket:
        server = _server(site, socket)
        _tell(session, host, server.port)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        server.serve_forever()


def _refuse_the_world(host: str, proxies: int) -> None:
    from ..console.origins import is_loopback

    if proxies or not is_loopback(host):
        everybody = "everybody who comes by the proxy" if proxies else f"everybody who reaches {host}"
        raise click.UsageError(
            f"the console would be open to {everybody}: set durable_console_tokens or durable_console_users in the "
            "Celery configuration first, or leave it to this machine (--host 127.0.0.1, and no --proxies)"
        )


def _this_machine(request: Request) -> str | None:
    """Whoever is on this machine."""
    from ..console.origins import is_sent_from_here

    return this_user() if is_sent_from_here(request) else None


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
            listening.listen(128)
        except OSError as error:
            said = error.strerror or str(error)
            raise click.ClickException(f"nothing can listen at {host}:{port}: {said}. --port names another") from error
        yield listening


def _server(site: Any, listening: socket.socket) -> Any:
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        """Writes no line for each request: pages that are looked at live ask every two seconds."""

        timeout = 60  # for who connects and says nothing

        def version_string(self) -> str:
            return "celery_durable"

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Nothing: errors are logged by the console itself."""

    host, port = listening.getsockname()[:2]
    return make_server(host, port, site, threaded=True, request_handler=Handler, fd=listening.fileno())


def _tell(session: Session, host: str, port: int) -> None:
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{port}/"
    if session.as_json:
        session.print_json({"url": url})
    else:
        session.print(f"The console is at {url}   (Ctrl-C ends it)")
