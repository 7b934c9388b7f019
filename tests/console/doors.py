"""The doors into the console, each as a browser that stands before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery
from flask import Flask
from starlette.applications import Starlette
from starlette.routing import Mount
from werkzeug.exceptions import NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from celery_durable.console import Console
from celery_durable.contrib.flask import console_blueprint
from tests.console.browsing import Browser, by_asgi, by_wsgi

__all__ = ["DOORS", "PASSWORD", "TOKEN", "HASH", "Door"]

TOKEN = "a-token-that-is-long"
PASSWORD = "correct horse"
HASH = "pbkdf2:sha256:1000$cFLNdzpWCQ7DWQvM$cc8892df6c94c5903c4594e323872149cb078ec25a052a1ee3b383377612534e"
"""Of that password; made with few rounds, so that the tests are quick."""

Door = Callable[..., Browser]


def wsgi(app: Celery, **options: Any) -> Browser:
    return Browser(by_wsgi(Console(app, **options)))


def wsgi_mounted(app: Celery, **options: Any) -> Browser:
    site = DispatcherMiddleware(NotFound(), {"/ops/durable": Console(app, **options)})
    return Browser(by_wsgi(site), "/ops/durable")


def asgi(app: Celery, **options: Any) -> Browser:
    return Browser(by_asgi(Console(app, **options).asgi))


def starlette(app: Celery, **options: Any) -> Browser:
    site = Starlette(routes=[Mount("/ops", routes=[Mount("/durable", app=Console(app, **options).asgi)])])
    return Browser(by_asgi(site), "/ops/durable")


def flask(app: Celery, identify: Any = None, **options: Any) -> Browser:
    from flask import request

    site = Flask("site")
    who = None if identify is None else lambda: identify(request)
    site.register_blueprint(console_blueprint(app, who=who, **options), url_prefix="/ops/durable")
    return Browser(by_wsgi(site), "/ops/durable")


DOORS: dict[str, Door] = {
    "wsgi": wsgi,
    "wsgi-mounted": wsgi_mounted,
    "asgi": asgi,
    "starlette": starlette,
    "flask": flask,
}
