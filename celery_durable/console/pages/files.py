"""Style and script."""

from __future__ import annotations

from typing import Any

from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Request, Response

from ..assets import TYPES, asset, version

__all__ = ["static"]


def static(console: Any, request: Request, urls: Any, name: str) -> Response:
    """A file that is kept by browsers: its address changes when it does."""
    if name not in TYPES:
        raise NotFound()
    response = Response(asset(name), content_type=TYPES[name])
    lasting = request.args.get("v") == version(name)
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if lasting else "no-cache"
    response.set_etag(version(name))
    response.make_conditional(request)
    return response
