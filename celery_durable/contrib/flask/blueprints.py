"""Blueprints: the door through which outside systems emit events, and the web console.

flask_app.register_blueprint(events_blueprint(celery_app), url_prefix="/durable")
flask_app.register_blueprint(console_blueprint(celery_app, guard=login_required, who=user_name), url_prefix="/console")
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, request

from ...errors import ConfigurationError
from ..door import Door, content_length

__all__ = ["console_blueprint", "events_blueprint"]

# All of them, so that the door itself says that it takes only POST, in JSON as everything else.
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def events_blueprint(app: Any, name: str = "durable") -> Blueprint:
    """A blueprint with the one route ``POST /events/<name>``, for a Celery app or its ``Durable``.

    Who may use it, and what is sent, says :mod:`celery_durable.contrib.door`.
    """
    door = Door(app)
    blueprint = Blueprint(name, __name__)

    def events(event: str) -> Response:
        # A handler that ran before this one may have read the body, and Flask keeps it then.
        kept = getattr(request, "_cached_data", None)
        stream = request.stream if kept is None else io.BytesIO(kept)
        answer = door.receive(
            request.method,
            event,
            dict(request.headers),
            stream.read,
            content_length(request.headers.get("Content-Length")),
            request.remote_addr,
        )
        return Response(answer.body, answer.status, answer.headers)

    blueprint.add_url_rule("/events/<event>", "events", events, methods=_METHODS, provide_automatic_options=False)
    return blueprint


def console_blueprint(
    app: Any,
    *,
    guard: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None,
    who: Callable[[], str | None] | None = None,
    name: str = "durable_console",
) -> Blueprint:
    """A blueprint with the whole web console, for a Celery app or its ``Durable``, under whatever prefix.

    ``guard`` is a decorator of views that lets nobody through who may not come in, such as Flask-Login's
    ``login_required``; ``who`` names who has come through, for what they do to be recorded under, and lets nobody in
    where it returns ``None``. Without the two people sign in at the console itself, by ``durable_console_tokens`` and
    ``durable_console_users``.
    """
    from werkzeug.wrappers import Request

    from ...console import Console
    from ...console.paths import wsgi_path

    if guard is not None and who is None:
        raise ConfigurationError(
            "console_blueprint has a guard, and nothing that says who it lets through: hand over who= too, "
            "as in  who=lambda: current_user.get_id()"
        )
    console = Console(app, identify=None if who is None else lambda _: who())
    blueprint = Blueprint(name, __name__)

    def page(rest: str) -> Any:
        before = request.path[: len(request.path) - len(rest)].rstrip("/")
        environ = request.environ | _body()
        environ["SCRIPT_NAME"] = environ.get("SCRIPT_NAME", "").rstrip("/") + wsgi_path(before)
        environ["PATH_INFO"] = wsgi_path(f"/{rest}")
        return console.handle(Request(environ))

    view = page if guard is None else guard(page)
    options: dict[str, Any] = {"methods": _METHODS, "provide_automatic_options": False}
    blueprint.add_url_rule("/", "page", view, defaults={"rest": ""}, **options)
    blueprint.add_url_rule("/<path:rest>", "page", view, **options)
    return blueprint


def _body() -> dict[str, Any]:
    """The body, where a handler that ran before has read it: what Flask has kept, or made of it."""
    if request.environ["REQUEST_METHOD"] in ("GET", "HEAD"):
        return {}
    if (kept := getattr(request, "_cached_data", None)) is None:
        if "form" not in vars(request):
            return {}
        kept = urlencode(list(request.form.items(multi=True))).encode()
    return {"wsgi.input": io.BytesIO(kept), "CONTENT_LENGTH": str(len(kept))}
