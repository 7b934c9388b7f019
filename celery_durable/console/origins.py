"""Where a request comes from: this machine or another, a page of this console or of another site."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from werkzeug.wrappers import Request

__all__ = ["is_from_our_page", "is_loopback", "is_sent_from_here"]

_PROXIES = ("Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP")


def is_loopback(host: str) -> bool:
    """Whether this host, with or without a port, is the machine itself."""
    try:
        name = urlsplit(f"//{host}" if host.count(":") < 2 or "[" in host else f"//[{host}]").hostname or ""
    except ValueError:
        return False
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_sent_from_here(request: Request) -> bool:
    """Whether somebody on this machine has sent it, to this machine.

    Not so if the host is another: a site can have its own name point to this machine, and then its pages may read
    what they get. Nor if a proxy has passed it on: whoever sent it is somewhere else.
    """
    return is_loopback(request.host) and not any(name in request.headers for name in _PROXIES)


def is_from_our_page(request: Request) -> bool:
    """Whether a page of this console has sent it, as far as the browser says: all of today say so where they are
    spoken to by HTTPS, or on their own machine. A program says nothing."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    # A proxy before us may speak HTTPS where we are spoken to by HTTP; never the other way round.
    schemes = ("https",) if request.is_secure else ("http", "https")
    return origin in [f"{scheme}://{request.host}" for scheme in schemes]
