"""The doors as people find them: real servers, a page with all its links, its files, and something done."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from celery_durable import Durable
from tests.console.browsing import HTML, Answer, Browser, by_http
from tests.console.doors import TOKEN
from tests.console.shop import shop
from tests.web.processes import ROOT, Server

Serve = Callable[..., Browser]

PAUSED = "order-16"
RESUME = f"/run/{PAUSED}/resume"


@pytest.fixture
def serve(database: Path, tmp_path: Path) -> Iterator[Serve]:
    """Start a server, and stand before it with a browser."""
    servers: list[Server] = []

    def start(*arguments: str, prefix: str = "/ops/durable", **environment: str) -> Browser:
        given = {"CONSOLE_DATABASE": str(database), "CONSOLE_USERS": str(tmp_path / "users.db"), **environment}
        servers.append(Server(f"server-{len(servers)}", tmp_path, given, *arguments))
        return Browser(by_http(servers[-1].url), prefix, host="localhost")

    yield start
    for server in servers:
        server.process.stop()


def uvicorn(site: str, *more: str) -> tuple[str, ...]:
    return ("uvicorn", site, "--port", "{port}", "--log-level", "warning", *more)


def looked_at(browser: Browser, page: Answer) -> None:
    """The page is there, and so is all that it links to under the prefix."""
    assert page.status == 200
    assert "order-new" in page.text
    assert [link for link in page.links() if not link.startswith(f"{browser.prefix}/")] == []
    for link in {link for link in page.links() if "/static/" in link}:
        assert browser.request("GET", link).status == 200, link
    assert browser.get("/run/order-new").status == 200
    assert browser.get("/nowhere").status == 404


def acted(browser: Browser, database: Path, who: str) -> None:
    done = browser.act(RESUME)
    assert (done.status, done.header("Location").endswith(f"{browser.prefix}/run/{PAUSED}")) == (303, True)
    assert browser.follow(done).status == 200
    deeds = Durable(shop(f"sqlite:///{database}")).audit()
    assert [deed.actor for deed in deeds if (deed.run_id, deed.action) == (PAUSED, "resume")] == [who]


def signed_in_by_token(browser: Browser) -> Answer:
    asked = browser.get("/")
    assert browser.follow(asked).status == 200
    return browser.follow(browser.post("/sign-in", token=TOKEN))


# ------------------------------------------------------------------------ plain servers


def test_uvicorn(serve: Serve, database: Path) -> None:
    browser = serve(*uvicorn("tests.console.sites:asgi"), prefix="")
    looked_at(browser, signed_in_by_token(browser))
    acted(browser, database, "ada")


def test_uvicorn_that_is_told_its_prefix(serve: Serve, database: Path) -> None:
    """A proxy before it takes the prefix out of the path: here its part is played by the browser."""
    browser = serve(*uvicorn("tests.console.sites:asgi", "--root-path", "/ops/durable"), prefix="")
    page = browser.get("/", {**HTML, "Authorization": f"Bearer {TOKEN}"})
    assert page.status == 200
    assert all(link.startswith("/ops/durable/") for link in page.links())


def test_a_wsgi_server(serve: Serve, database: Path) -> None:
    browser = serve("tests.console.wsgi_server", "{port}", "wsgi")
    looked_at(browser, signed_in_by_token(browser))
    acted(browser, database, "ada")


@pytest.mark.parametrize("stripped", [True, False])
def test_a_proxy_with_a_prefix(serve: Serve, database: Path, stripped: bool) -> None:
    browser = serve("tests.console.wsgi_server", "{port}", "proxied")
    send = browser.send
    told = [
        ("X-Forwarded-For", "203.0.113.7"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "console.example"),
        ("X-Forwarded-Prefix", "/ops/durable"),
    ]

    def through(method: str, address: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        path = address[len("/ops/durable") :] if stripped else address
        return send(method, path, headers + told, body)

    browser.send = through
    looked_at(browser, signed_in_by_token(browser))
    cookie = browser.post("/sign-in", token=TOKEN).header("Set-Cookie")
    assert "Secure" in cookie
    assert "Path=/ops/durable" in cookie
    mark = browser.get(RESUME).mark
    assert browser.post(RESUME, {"Origin": "http://console.example"}, mark=mark).status == 403
    browser.headers = {"Origin": "https://console.example"}
    acted(browser, database, "ada")


# ----------------------------------------------------------------------------- frameworks


def test_flask(serve: Serve, database: Path) -> None:
    browser = serve("flask", "--app", "tests.console.sites:flask_app", "run", "--no-reload", "--port", "{port}")
    login = browser.get("/")
    assert login.header("Location") == "/login/"
    assert browser.get("/static/console.css").status == 302
    looked_at(browser, browser.follow(browser.follow(login)))
    acted(browser, database, "ada")


def test_fastapi(serve: Serve, database: Path) -> None:
    browser = serve(*uvicorn("tests.console.sites:api"))
    login = browser.get("/")
    assert login.header("Location") == "/login/"
    looked_at(browser, browser.follow(browser.follow(login)))
    acted(browser, database, "ada")


@pytest.fixture
def django_users(database: Path, tmp_path: Path) -> None:
    """staff, a customer, and an operator who is no staff; their passwords are their names."""
    script = """
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from django.contrib.auth.models import Group, User
User.objects.create_user("staff", password="staff", is_staff=True)
User.objects.create_user("customer", password="customer")
User.objects.create_user("operator", password="operator").groups.add(Group.objects.create(name="operators"))
"""
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.console.django_site.settings",
        "CONSOLE_DATABASE": str(database),
        "CONSOLE_USERS": str(tmp_path / "users.db"),
    }
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True, timeout=60)


DJANGO = {
    "wsgi": ("django", "runserver", "--noreload", "127.0.0.1:{port}"),
    "asgi": uvicorn("tests.console.django_site.asgi:application", "--lifespan", "off"),
}


def django_login(browser: Browser, name: str) -> None:
    browser.cookies.clear()
    page = browser.request("GET", "/admin/login/")
    token = page.text.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]
    sent = {"Content-Type": "application/x-www-form-urlencoded"}
    body = f"csrfmiddlewaretoken={token}&username={name}&password={name}&next=/".encode()
    assert browser.request("POST", "/sign-in/", sent, body).status == 302


@pytest.mark.parametrize("server", DJANGO)
@pytest.mark.usefixtures("django_users")
def test_django(serve: Serve, database: Path, server: str) -> None:
    login = {"wsgi": "", "asgi": "/sign-in/"}[server]
    settings = {"DJANGO_SETTINGS_MODULE": "tests.console.django_site.settings", "CONSOLE_LOGIN_URL": login}
    browser = serve(*DJANGO[server], **settings)
    # Nobody
    for path in ("/", "/run/order-0?x=1", RESUME, "/static/console.css"):
        asked = browser.get(path)
        assert asked.status == 302
        assert asked.header("Location").startswith(f"{login or '/admin/login/'}?next=/ops/durable/")
    assert browser.post(RESUME, mark="x").status == 302
    # Staff
    django_login(browser, "staff")
    looked_at(browser, browser.get("/"))
    assert "You are staff" in browser.get("/").text
    assert browser.post(RESUME, mark="x").status == 403
    acted(browser, database, "staff")
    too_long = browser.post(RESUME, reason="x" * 3_000_000)
    assert too_long.status == 413
    # Not staff
    for name in ("customer", "operator"):
        django_login(browser, name)
        assert browser.get("/").status == 403
        assert browser.get(RESUME).status == 403
    # Whom the site's own function lets in, and whom it does not
    browser.prefix = "/night/shift"
    looked_at(browser, browser.get("/"))
    django_login(browser, "staff")
    assert browser.get("/").status == 403
