"""Flask: the door through which outside systems emit events.

flask_app.register_blueprint(events_blueprint(celery_app), url_prefix="/durable")
"""

from __future__ import annotations

import io
from typing import Any

try:
    from flask import Blueprint, Response, request
except ImportError as error:
    raise ImportError('celery_durable.contrib.flask needs Flask: pip install "celery-durable[flask]"') from error

from .door import Door, content_length

__all__ = ["events_blueprint"]

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
