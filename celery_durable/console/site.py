"""The console as one application: which page answers, and what holds for all of them.

A request goes through one sequence: is it for a file that everybody may have; who sends it; which page is meant; if
it changes something, was its form shown by this console in this browser; the page. Whatever happens, the answer
carries headers that let the browser run nothing and load nothing that is not the console's own.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from sqlalchemy.exc import DataError, DBAPIError
from werkzeug.exceptions import (
    BadRequest,
    Conflict,
    Forbidden,
    HTTPException,
    InternalServerError,
    NotFound,
    RequestEntityTooLarge,
    ServiceUnavailable,
)
from werkzeug.wrappers import Request, Response

from ..errors import (
    ConfigurationError,
    DurableError,
    EventNotFound,
    RunNotFound,
    StepNotFound,
    TaskNotFound,
    WrongStatus,
)
from ..worker.durable import Durable
from .access import Access, Identify
from .asgi import AsgiApp
from .cookies import BROWSER, SESSION, set_cookie
from .keys import Keys
from .origins import is_from_our_page
from .pages import OPEN, PAGES, RULES
from .pages.signing import challenge
from .proxies import behind
from .templating import render
from .visit import Visit

__all__ = ["Console"]

logger = logging.getLogger("celery_durable")

LARGEST_BODY = 4_000_000
"""In bytes. What is longer is not read."""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}

_SAID = {
    404: "The console has no page at this address.",
    405: "This address is for something else: it can't be asked for like that.",
    413: f"That is too much to be sent at once: {LARGEST_BODY // 1_000_000} MB are taken.",
}
"""What is wrong, where nobody has said more."""


class Console:
    """A WSGI application for one Celery app, which may be handed over as its ``Durable``.

    ``identify`` says who sends a request, where the site around knows that: it is given werkzeug's ``Request``, and
    returns a name, ``None``, or a werkzeug ``Response``. Without it people come in by ``durable_console_tokens`` and
    ``durable_console_users``. ``proxies`` is the number of reverse proxies whose ``X-Forwarded-...`` headers are true.
    """

    def __init__(self, app: Any, *, identify: Identify | None = None, proxies: int = 0) -> None:
        self.durable = app if isinstance(app, Durable) else Durable(app)
        self._identify = identify
        self._answer = behind(self._wsgi, proxies)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        return self._answer(environ, start_response)

    @cached_property
    def asgi(self) -> AsgiApp:
        """The same as an ASGI application."""
        return AsgiApp(self, LARGEST_BODY)

    @cached_property
    def access(self) -> Access:
        """Who may do what, by the Celery configuration."""
        return Access.of(self.durable.app.conf.get)

    @cached_property
    def keys(self) -> Keys:
        """What signs cookies and forms: the same in all processes that serve this console."""
        people = sorted((*self.access.tokens.items(), *self.access.users.items()))
        return Keys(self.durable.identity(), *(part for person in people for part in person))

    @property
    def signs_in(self) -> bool:
        """Whether people sign in here, by the Celery configuration. Raises ``ConfigurationError`` if nobody can."""
        if self._identify is not None:
            return False
        if self.access.is_closed:
            raise ConfigurationError(
                "the console is closed: set durable_console_tokens or durable_console_users in the Celery "
                "configuration, or hand Console an identify function"
            )
        return True

    def handle(self, request: Request) -> Response:
        """Answer one request."""
        request.max_content_length = request.max_form_memory_size = LARGEST_BODY
        try:
            if (request.content_length or 0) > LARGEST_BODY:
                raise RequestEntityTooLarge()
            response = self._handle(request)
        except Exception as error:
            response = self._refusal(request, _as_http(request, error))
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    # ------------------------------------------------------------------ inside

    def _wsgi(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(environ)
        return self.handle(request)(environ, start_response)

    def _handle(self, request: Request) -> Response:
        urls = RULES.bind_to_environ(request.environ)
        page, values = urls.match()
        if page in OPEN:
            return OPEN[page](self, request, urls, **values)
        who = self._who(request)
        if isinstance(who, Response):
            return who
        browser = request.cookies.get(BROWSER) or secrets.token_urlsafe(16)
        signed_in = self._identify is None and request.authorization is None
        visit = Visit(self, request, urls, who, self.keys.form(who, browser), signed_in, page)
        if request.method not in ("GET", "HEAD"):
            self._check_form(request, visit)
        response = PAGES[page](visit, **values)
        if BROWSER not in request.cookies:
            set_cookie(request, response, BROWSER, browser)
        return response

    def _who(self, request: Request) -> str | Response:
        if self._identify is None:
            return self._known(request) or challenge(self, request)
        found = self._identify(request)
        if isinstance(found, Response):
            return found
        if found is not None and not isinstance(found, str):
            raise TypeError(f"identify returned {found!r}: a name, None or a werkzeug Response is expected")
        if not found:
            raise Forbidden("You are not among those who may use this console.")
        return found

    def _known(self, request: Request) -> str | None:
        """Who comes in by the Celery configuration."""
        access, given = self.access, request.authorization
        if not self.signs_in:
            return None
        if given is None:
            who = self.keys.who(request.cookies.get(SESSION, ""))
            return who if who is not None and access.knows(who) else None
        if given.type == "bearer":
            return access.by_token(given.token or "")
        if given.type == "basic":
            return access.by_password(given.username or "", given.password or "")
        return None

    def _check_form(self, request: Request, visit: Visit) -> None:
        """What is sent was shown by this console, in this browser, to this person. A program that sends its token with
        it needs no form: no page of another site can have a browser send that."""
        given = request.authorization
        if self._identify is None and given is not None and given.type == "bearer":
            return
        mark, browser = request.form.get("mark", ""), request.cookies.get(BROWSER, "")
        if not is_from_our_page(request) or not self.keys.is_form_of(visit.who, browser, mark):
            raise Forbidden(
                "This form was not shown by this console, or somebody else has signed in since. Nothing was done: go "
                "back, load the page again, and try once more."
            )

    def _refusal(self, request: Request, error: HTTPException) -> Response:
        """An error as a page."""
        if error.response is not None or (error.code or 500) < 400:
            return Response.force_type(error.get_response(request.environ))
        said = error.description
        if said == type(error).description:
            said = _SAID.get(error.code or 500, said)
        text = render("error.html", visit=None, request=request, code=error.code, name=error.name, said=said)
        response = Response(text, error.code, content_type="text/html; charset=utf-8")
        for name, value in error.get_headers(request.environ):
            if name.lower() != "content-type":
                response.headers.add(name, value)
        return response


def _as_http(request: Request, error: Exception) -> HTTPException:
    """What is answered for an error. Only what is meant for people gets out; the log has the rest."""
    if isinstance(error, HTTPException):
        return error
    if isinstance(error, ConfigurationError):
        logger.error("the console: %s", error)
        return ServiceUnavailable("The console is not set up right. The log of this process says what to do.")
    if isinstance(error, (RunNotFound, EventNotFound, StepNotFound, TaskNotFound)):
        return NotFound(str(error))
    if isinstance(error, DurableError):
        return Conflict(str(error)) if isinstance(error, WrongStatus) else BadRequest(str(error))
    if isinstance(error, (DataError, UnicodeError)):
        return BadRequest("The database can't look for this: it has a character that no text of it can have.")
    if isinstance(error, DBAPIError):
        logger.warning("the console can't reach the database: %s", error.orig)
        return ServiceUnavailable("The database does not answer. The log of this process says more.")
    logger.error("the console could not answer %s %r", request.method, request.path, exc_info=error)
    return InternalServerError("The console could not do this. The log of this process says why.")
