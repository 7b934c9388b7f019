"""Sites with the console in them, for servers that are processes of their own."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI
from flask import Flask
from flask import request as flask_request
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse
from werkzeug.exceptions import NotFound
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.utils import redirect
from werkzeug.wrappers import Request as WerkzeugRequest

from celery_durable.console import Console
from celery_durable.contrib.flask import console_blueprint
from tests.console.doors import TOKEN
from tests.console.shop import shop

app = shop(f"sqlite:///{os.environ['CONSOLE_DATABASE']}", durable_console_tokens={"ada": TOKEN})

console = Console(app)
wsgi = DispatcherMiddleware(NotFound(), {"/ops/durable": console})
asgi = console.asgi
proxied = Console(app, proxies=1)

# -- Flask, behind a guard of its own

flask_app = Flask("site")


def signed_in(view: Any) -> Any:
    def guarded(**values: Any) -> Any:
        return view(**values) if flask_request.cookies.get("user") else redirect("/login/")

    return guarded


flask_app.register_blueprint(
    console_blueprint(app, guard=signed_in, who=lambda: flask_request.cookies["user"]), url_prefix="/ops/durable"
)


@flask_app.get("/login/")
def flask_login() -> Any:
    response = redirect("/ops/durable/")
    response.set_cookie("user", "ada")
    return response


# -- FastAPI, whose session says who it is

api = FastAPI()
api.add_middleware(SessionMiddleware, secret_key="a key of the tests")


def known(request: WerkzeugRequest) -> Any:
    return request.environ["asgi.scope"]["session"].get("user") or redirect("/login/")


@api.get("/login/")
def login(request: Request) -> RedirectResponse:
    request.session["user"] = "ada"
    return RedirectResponse("/ops/durable/", 303)


api.mount("/ops/durable", Console(app, identify=known).asgi)
