"""The two cookies of the console: who has signed in, and which browser a form was shown in."""

from __future__ import annotations

from werkzeug.wrappers import Request, Response

__all__ = ["BROWSER", "SESSION", "drop_cookie", "set_cookie"]

BROWSER = "durable_browser"
SESSION = "durable_session"


def set_cookie(request: Request, response: Response, name: str, value: str, seconds: int | None = None) -> None:
    """A cookie that no script reads and no other site sends."""
    response.set_cookie(
        name,
        value,
        max_age=seconds,
        path=request.root_path or "/",
        secure=request.is_secure,
        httponly=True,
        samesite="Lax",
    )


def drop_cookie(request: Request, response: Response, name: str) -> None:
    """Have the browser forget it."""
    response.delete_cookie(name, path=request.root_path or "/", secure=request.is_secure, httponly=True, samesite="Lax")
