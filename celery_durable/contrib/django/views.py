"""Django: the door through which outside systems emit events."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from ...errors import ConfigurationError
from ..door import Answer, Door, content_length, shut
from .project import celery_app

__all__ = ["events"]


def _events(request: HttpRequest, name: str) -> HttpResponse:
    """Emit an event. Who may, and what is sent, says :mod:`celery_durable.contrib.door`."""
    answer = _receive(request, name)
    return HttpResponse(answer.body, status=answer.status, headers=answer.headers)


# The door looks at no cookie, so there is nothing that a forged form could use.
events: Callable[[HttpRequest, str], HttpResponse] = csrf_exempt(_events)


def _receive(request: HttpRequest, name: str) -> Answer:
    try:
        door = Door(celery_app())
    except ConfigurationError as error:
        return shut(error)
    return door.receive(
        request.method or "",
        name,
        request.headers,
        request.read,
        content_length(request.META.get("CONTENT_LENGTH")),
        request.META.get("REMOTE_ADDR"),
    )
