"""What reverse proxies say of a request: whose it is, and under which host, scheme and prefix the browser knows us."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from werkzeug.middleware.proxy_fix import ProxyFix

__all__ = ["behind"]

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_PREFIX = re.compile(r"(?:/[A-Za-z0-9_.~@:!$&'()*+,;=%-]+)+/?")


def behind(app: WsgiApp, proxies: int) -> WsgiApp:
    """The same application behind so many proxies, whose ``X-Forwarded-...`` headers are believed."""
    if not proxies:
        return app

    def prefixed(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        _mount(environ, _prefix(environ.get("HTTP_X_FORWARDED_PREFIX", ""), proxies))
        return app(environ, start_response)

    # The prefix is ours to set: the middleware would put it in the place of where we are mounted.
    return ProxyFix(prefixed, x_for=proxies, x_proto=proxies, x_host=proxies, x_port=proxies)


def _prefix(header: str, proxies: int) -> str:
    """What the outermost of the proxies says; nothing if it is no path, as that of another host."""
    said = [part.strip() for part in header.split(",")]
    found = said[-proxies] if len(said) >= proxies else ""
    return found.rstrip("/") if _PREFIX.fullmatch(found) else ""


def _mount(environ: dict[str, Any], prefix: str) -> None:
    """Put the prefix before where we are mounted. Some proxies take it out of the path, and others leave it there."""
    path, mount = environ.get("PATH_INFO", ""), environ.get("SCRIPT_NAME", "")
    if prefix and not mount and f"{path}/".startswith(f"{prefix}/"):
        environ["PATH_INFO"] = path[len(prefix) :] or "/"
    environ["SCRIPT_NAME"] = f"{prefix}{mount}"
