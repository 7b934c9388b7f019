"""Django: the door through which outside systems emit events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery, current_app
from celery.app.utils import find_app
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from ...errors import ConfigurationError
from ..door import Answer, Door, content_length, shut

__all__ = ["events"]


def _events(request: HttpRequest, name: str) -> HttpResponse:
    """Emit an event. Who may, and what is sent, says :mod:`celery_durable.contrib.door`."""
    answer = _receive(request, name)
    return HttpResponse(answer.body, status=answer.status, headers=answer.headers)


# The door looks at no cookie, so there is nothing that a forged form could use.
events: Callable[[HttpRequest, str], HttpResponse] = csrf_exempt(_events)


def _receive(request: HttpRequest, name: str) -> Answer:
    try:
        door = Door(_celery_app())
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


def _celery_app() -> Any:
    """The app that ``CELERY_DURABLE_APP`` names, or else the process's current one."""
    named = getattr(settings, "CELERY_DURABLE_APP", None)
    if named is None:
        return current_app._get_current_object()
    try:
        app = find_app(named)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise ConfigurationError(
            f"the Django setting CELERY_DURABLE_APP names {named!r}, which can't be loaded: {error}"
        ) from error
    if not isinstance(app, Celery):
        raise ConfigurationError(f"the Django setting CELERY_DURABLE_APP names {named!r}, which is no Celery app")
    return app
