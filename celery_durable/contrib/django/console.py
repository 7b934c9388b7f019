"""Django: the web console, for the site's staff::

    path("durable/", include("celery_durable.contrib.django.console"))

or for whom a function of the user says so::

    path("durable/", include(console_urls(lambda user: user.has_perm("shop.operate_runs"))))

Who is not signed in is sent to the site's own sign-in, and who may not come in is answered 403. What somebody does is
recorded under the name that the site knows.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from typing import Any

from django.conf import global_settings, settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch, Resolver404, path, resolve, reverse
from django.views.decorators.csrf import csrf_exempt
from werkzeug.wrappers import Request, Response

from ...console import Console
from ...console.paths import wsgi_path
from ...errors import ConfigurationError
from .project import celery_app

__all__ = ["console_urls", "is_staff"]

logger = logging.getLogger("celery_durable")

Permits = Callable[[Any], bool]
"""Whether a user who has signed in may come in."""

_WHO = "celery_durable.who"
_CGI = ("CONTENT_TYPE", "QUERY_STRING", "REMOTE_ADDR", "REQUEST_METHOD", "SERVER_NAME", "SERVER_PORT")


def is_staff(user: Any) -> bool:
    """Whether Django's admin would let this user in."""
    return bool(user.is_active and user.is_staff)


def console_urls(permits: Permits = is_staff) -> list[Any]:
    """What ``include`` takes: the whole console, under whatever prefix, for the users for whom ``permits`` is true."""
    view = csrf_exempt(_View(permits))  # each form of the console has a mark of its own
    return [path("", view, name="durable-console"), path("<path:rest>", view)]


class _View:
    """One view for all pages: the console itself knows which is meant."""

    def __init__(self, permits: Permits) -> None:
        self._permits = permits

    def __call__(self, request: HttpRequest, rest: str = "", **others: Any) -> HttpResponse:
        try:
            user = self._user(request)
            console = self._console
        except ConfigurationError as error:
            logger.error("the console: %s", error)
            return _plain("The console is not set up right. The log of this process says what to do.", 503)
        if not user.is_authenticated:
            return _to_sign_in(request)
        if not self._permits(user):
            raise PermissionDenied("You are not among those who may use this console.")
        try:
            environ = _environ(request, rest, request.body)
        except RequestDataTooBig:
            return _plain("This is more than DATA_UPLOAD_MAX_MEMORY_SIZE lets in.", 413)
        return _response(console.handle(Request(environ | {_WHO: user.get_username()})), environ)

    def _user(self, request: HttpRequest) -> Any:
        user = getattr(request, "user", None)
        if user is None:
            raise ConfigurationError(
                "it asks who is signed in, and Django does not say: put "
                "django.contrib.auth.middleware.AuthenticationMiddleware into MIDDLEWARE"
            )
        return user

    @cached_property
    def _console(self) -> Console:
        return Console(celery_app(), identify=lambda request: request.environ[_WHO])


def _to_sign_in(request: HttpRequest) -> HttpResponse:
    from django.contrib.auth.views import redirect_to_login  # which needs that app to be installed

    return redirect_to_login(request.get_full_path(), _login_url())


def _login_url() -> str:
    """Where people sign in: at ``LOGIN_URL``, or in the admin where that was left as it comes and is no page."""
    url = str(resolve_url(settings.LOGIN_URL))
    if settings.LOGIN_URL == global_settings.LOGIN_URL:
        try:
            resolve(url)
        except Resolver404:
            with suppress(NoReverseMatch):
                return str(reverse("admin:login"))
    return url


def _environ(request: HttpRequest, rest: str, body: bytes) -> dict[str, Any]:
    """The request as WSGI has it, below the prefix that the console is included under."""
    before = request.path[: len(request.path) - len(rest)]
    environ = {name: value for name, value in request.META.items() if name.startswith("HTTP_") or name in _CGI}
    return environ | {
        "HTTP_HOST": request.get_host(),
        "SCRIPT_NAME": wsgi_path(before.rstrip("/")),
        "PATH_INFO": wsgi_path("/" + rest.lstrip("/")),
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.scheme,
        "wsgi.input": io.BytesIO(body),
    }


def _response(answer: Response, environ: dict[str, Any]) -> HttpResponse:
    content, status, headers = answer.get_wsgi_response(environ)
    response = HttpResponse(b"".join(content), status=int(status.partition(" ")[0]))
    del response.headers["Content-Type"]
    for name, value in headers:
        if name.lower() == "set-cookie":
            response.cookies.load(value)
        else:
            response.headers[name] = value
    return response


def _plain(text: str, status: int) -> HttpResponse:
    return HttpResponse(text, status=status, content_type="text/plain; charset=utf-8")


urlpatterns = console_urls()
