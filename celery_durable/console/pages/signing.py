"""Signing in by a token or a password, and out again."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, Unauthorized
from werkzeug.utils import redirect
from werkzeug.wrappers import Request, Response

from ..cookies import SESSION, drop_cookie, set_cookie
from ..keys import SESSION_SECONDS
from ..origins import is_from_our_page
from ..templating import render

if TYPE_CHECKING:
    from ..site import Console
    from ..visit import Visit

__all__ = ["challenge", "sign_in", "sign_out"]

logger = logging.getLogger("celery_durable")

_REALM = "the console of celery_durable"
_PATH = re.compile(r"/(?![/\\])[!-\[\]-~]*")
"""A path of this site: browsers take what begins with two slashes for another one, and leave out white space."""


def challenge(console: Console, request: Request) -> Response:
    """What somebody unknown is answered: the sign-in page for a person with a browser, else what is asked for."""
    if request.authorization is not None:
        _warn(request, f"{request.authorization.type} credentials")
    wants_page = request.method in ("GET", "HEAD") and "text/html" in request.headers.get("Accept", "")
    if wants_page and request.authorization is None:
        return redirect(f"{_quoted(request.root_path)}/sign-in?to={quote(_address(request), safe='')}", 303)
    ways, said = [], []
    if console.access.tokens:
        ways.append(WWWAuthenticate("bearer", {"realm": _REALM}))
        said.append("a token of durable_console_tokens, sent as  Authorization: Bearer <token>")
    if console.access.users:
        ways.append(WWWAuthenticate("basic", {"realm": _REALM, "charset": "UTF-8"}))
        said.append("a name and a password of durable_console_users, sent as those of Basic authentication")
    raise Unauthorized(f"This console asks who you are: it takes {', or '.join(said)}.", www_authenticate=ways)


def sign_in(console: Console, request: Request, urls: Any) -> Response:
    """The page that asks for a token or a password, and what takes it."""
    target = _safe(request, request.values.get("to", ""))
    if not console.signs_in:
        return redirect(target, 303)
    if request.method == "POST":
        if not is_from_our_page(request):
            raise Forbidden("Another site has sent this. Nobody is signed in by it.")
        who = _known(console, request)
        if who is not None:
            response: Response = redirect(target, 303)
            set_cookie(request, response, SESSION, console.keys.session(who), seconds=SESSION_SECONDS)
            return response
        _warn(request, "what was typed to sign in")
    wrong = request.method == "POST"
    text = render(
        "sign-in.html", visit=None, request=request, wrong=wrong, to=target, name=request.form.get("name", ""),
        by_token=bool(console.access.tokens), by_password=bool(console.access.users),
    )  # fmt: skip
    return Response(text, 403 if wrong else 200, content_type="text/html; charset=utf-8")


def sign_out(visit: Visit) -> Response:
    """Forget who it was."""
    response = visit.redirect("sign-in")
    drop_cookie(visit.request, response, SESSION)
    return response


def _known(console: Console, request: Request) -> str | None:
    form = request.form
    if "token" in form:
        return console.access.by_token(form["token"].strip())
    return console.access.by_password(form.get("name", "").strip(), form.get("password", ""))


def _warn(request: Request, what: str) -> None:
    logger.warning("the console lets nobody in by %s, from %s", what, request.remote_addr)


def _address(request: Request) -> str:
    """The address that was asked for, to come back to."""
    query = request.query_string.decode("latin-1")
    return _quoted(f"{request.root_path}{request.path}") + (f"?{query}" if query else "")


def _quoted(path: str) -> str:
    return quote(path, safe="/~!$&'()*+,;=:@")


def _safe(request: Request, target: str) -> str:
    """Where to go on: a page of this console, and no other site."""
    root = f"{_quoted(request.root_path)}/"
    return target if target.startswith(root) and _PATH.fullmatch(target) else root
