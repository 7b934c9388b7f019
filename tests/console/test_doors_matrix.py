"""Who comes in, by which door, and what they may do: by real requests to each door."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from werkzeug.utils import redirect

from celery_durable import ConfigurationError, Durable
from celery_durable.contrib.flask import console_blueprint
from tests.console.browsing import HTML, Answer, Browser
from tests.console.doors import DOORS, HASH, PASSWORD, TOKEN, Door, flask

Make = Callable[..., Celery]

PEOPLE: dict[str, Any] = {"durable_console_tokens": {"ada": TOKEN}, "durable_console_users": {"bob": HASH}}
PAUSED = "order-16"
RESUME = f"/run/{PAUSED}/resume"


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Door:
    return DOORS[request.param]


def basic(name: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def sign_in(browser: Browser, **form: str) -> Answer:
    asked = browser.get("/?status=failed")
    assert asked.status == 303
    assert browser.follow(asked).status == 200
    return browser.post("/sign-in", to=f"{browser.prefix}/?status=failed", **form)


def resumed_by(app: Celery) -> list[str]:
    return [deed.actor for deed in Durable(app).audit() if (deed.run_id, deed.action) == (PAUSED, "resume")]


# ------------------------------------------------------------------ who comes in


def test_nobody_comes_in_where_nobody_is_known(door: Door, app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    answer = door(app).get("/")
    assert answer.status == 503
    assert "durable_console" not in answer.text
    assert "the console is closed: set durable_console_tokens" in caplog.text


def test_who_is_unknown_is_asked_to_sign_in(door: Door, make: Make) -> None:
    browser = door(make(**PEOPLE))
    for path in ("/", "/runs/cancel", "/run/order-0", "/events", "/tasks", "/workers", "/deeds"):
        answer = browser.get(path)
        assert answer.status == 303
        assert answer.header("Location").startswith(f"{browser.prefix}/sign-in?to=")
        assert "order-0" not in answer.text.replace("run%2Forder-0", "")
    assert browser.post(RESUME, mark="x").status == 401
    refused = browser.get("/", {"Accept": "*/*"})
    assert refused.status == 401
    assert 'Basic realm="the console of celery_durable"' in refused.header("WWW-Authenticate")
    assert "Bearer" in refused.header("WWW-Authenticate")


def test_addresses_that_are_none_tell_nobody_anything(door: Door, make: Make) -> None:
    browser = door(make(**PEOPLE))
    assert browser.get("/nowhere").status == 404
    assert browser.get("/run/no-such-run").header("Location") == f"{browser.prefix}/sign-in?to=" + (
        f"{browser.prefix}/run/no-such-run".replace("/", "%2F")
    )


def test_what_is_wrong_lets_nobody_in(door: Door, make: Make) -> None:
    browser = door(make(**PEOPLE))
    for headers in (
        bearer("a-token-that-is-wrong"),
        bearer(""),
        bearer("ü-token"),
        basic("bob", "wrong"),
        basic("eve", PASSWORD),
        basic("ada", TOKEN),
        {"Authorization": "Digest x"},
        {"Authorization": "Basic !!"},
        {"Cookie": f"durable_session={TOKEN}"},
        {"Cookie": "durable_session=9999999999.00.616461"},
    ):
        assert browser.get("/", {"Accept": "*/*", **headers}).status == 401, headers
        assert browser.post(RESUME, headers, mark="x").status == 401, headers


@pytest.mark.parametrize("headers", [bearer(TOKEN), basic("bob", PASSWORD)])
def test_a_token_and_a_password_let_their_owner_in(door: Door, make: Make, headers: dict[str, str]) -> None:
    browser = door(make(**PEOPLE))
    page = browser.get("/", {**HTML, **headers})
    assert page.status == 200
    assert "order-new" in page.text
    assert "Sign out" not in page.text


@pytest.mark.parametrize(("who", "form"), [("ada", {"token": TOKEN}), ("bob", {"name": "bob", "password": PASSWORD})])
def test_signing_in_and_out(door: Door, make: Make, who: str, form: dict[str, str]) -> None:
    app = make(**PEOPLE)
    browser = door(app)
    # When
    answer = sign_in(browser, **form)
    # Then
    assert answer.header("Location").endswith(f"{browser.prefix}/?status=failed")
    cookie = answer.header("Set-Cookie")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert f"Path={browser.prefix or '/'}" in cookie
    page = browser.follow(answer)
    assert page.status == 200
    assert f"You are {who}" in page.text
    # When
    assert browser.act(RESUME).status == 303
    assert resumed_by(app) == [who]
    # When
    out = browser.post("/sign-out", mark=page.mark)
    assert out.header("Location").endswith(f"{browser.prefix}/sign-in")
    assert browser.get("/").status == 303


def test_a_wrong_token_is_told_and_logged(door: Door, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    browser = door(make(**PEOPLE))
    with caplog.at_level(logging.WARNING):
        answer = sign_in(browser, token="nothing that I know")
    assert answer.status == 403
    assert "Nobody is signed in" in answer.text
    assert "lets nobody in by what was typed to sign in, from 127.0.0.1" in caplog.text
    assert "nothing that I know" not in caplog.text + answer.text
    assert browser.get("/").status == 303


def test_a_session_ends_when_its_token_is_taken_out(door: Door, make: Make) -> None:
    browser = door(make(**PEOPLE))
    sign_in(browser, token=TOKEN)
    assert browser.get("/").status == 200
    others = {"durable_console_tokens": {"eve": "another-token-that-is-long"}}
    after = door(make(**PEOPLE | others))
    after.cookies = browser.cookies
    assert after.get("/").status == 303


# ------------------------------------------------------- who is known to the site


def test_the_site_says_who_it_is(door: Door, app: Celery) -> None:
    browser = door(app, identify=lambda request: request.headers.get("X-Who"))
    assert browser.get("/").status == 403
    assert browser.get("/", {"X-Who": "", **HTML}).status == 403
    page = browser.get("/", {"X-Who": "carol", **HTML})
    assert page.status == 200
    assert "You are carol" in page.text
    assert "Sign out" not in page.text
    browser.headers = {"X-Who": "carol"}
    assert browser.act(RESUME).status == 303
    assert resumed_by(app) == ["carol"]


def test_the_site_sends_people_to_its_own_sign_in(door: Door, app: Celery) -> None:
    answer = door(app, identify=lambda request: redirect("/login")).get("/")
    assert (answer.status, answer.header("Location")) == (302, "/login")


def test_what_is_no_name_is_an_error_that_tells_nothing(
    door: Door, app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    answer = door(app, identify=lambda request: 7).get("/")
    assert answer.status == 500
    assert "identify" not in answer.text
    assert "identify returned 7" in caplog.text


def test_tokens_are_no_way_around_what_the_site_says(door: Door, make: Make) -> None:
    browser = door(make(**PEOPLE), identify=lambda request: None)
    assert browser.get("/", bearer(TOKEN)).status == 403
    assert browser.post("/sign-in", token=TOKEN).header("Location").endswith(f"{browser.prefix}/")
    assert browser.get("/").status == 403


def test_a_guard_of_flask_stands_before_all_of_it(app: Celery) -> None:
    from flask import abort, request
    from flask import redirect as go

    def guard(view: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(**values: Any) -> Any:
            if "X-User" not in request.headers:
                return go("/login")
            if request.headers["X-User"] != "staff":
                abort(403)
            return view(**values)

        return guarded

    browser = flask(app, identify=lambda request: request.headers["X-User"], guard=guard)
    for path in ("/", "/static/console.css", "/sign-in", RESUME):
        assert browser.get(path).header("Location") == "/login"
    assert browser.get("/", {"X-User": "customer"}).status == 403
    browser.headers = {"X-User": "staff"}
    assert browser.act(RESUME).status == 303
    assert resumed_by(app) == ["staff"]


def test_a_guard_that_says_no_name_is_refused(app: Celery) -> None:
    with pytest.raises(ConfigurationError, match="hand over who="):
        console_blueprint(app, guard=lambda view: view)


# --------------------------------------------------------------- what they may do


@pytest.mark.parametrize(
    ("allow", "may"),
    [
        (None, True),
        ({"ada": ["resume"]}, True),
        ({"ada": "*"}, True),
        ({"*": ["resume"]}, True),
        ({"ada": ["pause"], "*": ["resume"]}, False),
        ({"ada": []}, False),
        ({"bob": ["resume"]}, False),
        (lambda who, action: (who, action) == ("ada", "resume"), True),
        (lambda who, action: False, False),
    ],
)
def test_each_action_may_be_allowed(door: Door, make: Make, allow: Any, may: bool) -> None:
    app = make(durable_console_allow=allow, durable_console_tokens={"ada": TOKEN})
    browser = door(app)
    sign_in(browser, token=TOKEN)
    page = browser.get("/")
    assert page.status == 200
    assert "read-only" not in page.text
    # When
    done, forced = browser.act(RESUME), browser.post(RESUME, mark=page.mark, reason="by hand")
    # Then
    assert (done.status, forced.status == 403) == ((303, False) if may else (403, True))
    assert resumed_by(app) == (["ada"] if may else [])
    assert ("durable_console_allow says who may do what" in forced.text) is not may


@pytest.mark.parametrize("allow", [None, {"ada": "*"}, lambda who, action: True])
def test_a_console_to_look_at(door: Door, make: Make, allow: Any) -> None:
    app = make(durable_console_allow=allow, durable_console_read_only=True, durable_console_tokens={"ada": TOKEN})
    browser = door(app)
    sign_in(browser, token=TOKEN)
    page = browser.get("/")
    assert (page.status, "read-only" in page.text) == (200, True)
    for answer in (browser.act(RESUME), browser.post(RESUME, mark=page.mark), browser.post(RESUME, bearer(TOKEN))):
        assert answer.status == 403
        assert "This console is read-only" in answer.text
    assert resumed_by(app) == []


def test_a_program_acts_by_its_token_alone(door: Door, make: Make) -> None:
    app = make(**PEOPLE)
    answer = door(app).post(RESUME, bearer(TOKEN), reason="by a script")
    assert answer.status == 303
    assert resumed_by(app) == ["ada"]


# ----------------------------------------------------------------- forged requests


def test_a_form_of_another_site_does_nothing(door: Door, make: Make) -> None:
    app = make(**PEOPLE)
    browser = door(app)
    sign_in(browser, token=TOKEN)
    mark = browser.get(RESUME).mark
    for headers in (
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:81"},
        {"Origin": "http://localhost.evil.example"},
    ):
        assert browser.post(RESUME, headers, mark=mark).status == 403, headers
        assert browser.post("/sign-in", headers, token=TOKEN).status == 403, headers
    assert browser.post(RESUME, mark="").status == 403
    assert browser.post(RESUME, mark=mark[:-1] + ("0" if mark[-1] != "0" else "1")).status == 403
    assert resumed_by(app) == []
    # When
    ours = browser.post(RESUME, {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, mark=mark)
    assert ours.status == 303


def test_a_form_is_of_one_person_in_one_browser(door: Door, make: Make) -> None:
    app = make(**PEOPLE)
    browser = door(app)
    sign_in(browser, token=TOKEN)
    mark = browser.get(RESUME).mark
    other = door(app)
    sign_in(other, token=TOKEN)
    assert other.post(RESUME, mark=mark).status == 403
    assert other.get("/").status == 200
    assert other.post(RESUME, mark=mark).status == 403
    bob = door(app)
    bob.cookies = {key: value for key, value in browser.cookies.items() if key[0] == "durable_browser"}
    assert bob.post(RESUME, basic("bob", PASSWORD), mark=mark).status == 403
    assert resumed_by(app) == []


def test_signing_in_leads_to_no_other_site(door: Door, make: Make) -> None:
    browser = door(make(**PEOPLE))
    for target in (
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "/\t/evil.example/",
        "\t//evil.example",
        f"{browser.prefix}//evil.example\n" if browser.prefix else "/\n/evil.example",
        "javascript:alert(1)",
        "/elsewhere\r\nX-Evil: 1",
    ):
        answer = browser.post("/sign-in", to=target, token=TOKEN)
        assert (answer.status, answer.header("Location")) == (303, f"{browser.prefix}/"), target
        assert not answer.header("X-Evil")


# ---------------------------------------------------------------- what all answers have


def test_a_browser_may_load_and_frame_nothing_of_others(door: Door, make: Make) -> None:
    browser = door(make(**PEOPLE))
    for path in ("/", "/sign-in", "/nowhere", "/static/console.css", "/run/no-such-run"):
        for headers in (bearer(TOKEN), HTML):
            answer = browser.get(path, headers)
            policy = answer.header("Content-Security-Policy")
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert answer.header("X-Frame-Options") == "DENY"
            assert answer.header("X-Content-Type-Options") == "nosniff"
            assert "static" in path or answer.header("Cache-Control") == "no-store"


def test_style_and_script_are_for_everybody_and_kept(door: Door, make: Make) -> None:
    browser = door(make(**PEOPLE))
    for link in browser.get("/sign-in").links():
        assert link.startswith(f"{browser.prefix}/"), link
        if "/static/" in link:
            answer = browser.request("GET", link)
            assert answer.status == 200
            assert "immutable" in answer.header("Cache-Control")
            again = browser.request("GET", link, {"If-None-Match": answer.header("ETag")})
            assert (again.status, again.body) == (304, b"")
    assert browser.get("/static/../site.py").status == 404
    assert browser.get("/static/%2e%2e%2fsite.py").status == 404


def test_methods(door: Door, make: Make) -> None:
    browser = door(make(**PEOPLE))
    head = browser.request("HEAD", f"{browser.prefix}/", bearer(TOKEN))
    assert (head.status, head.body) == (200, b"")
    assert int(head.header("Content-Length")) > 1000
    for method in ("PUT", "DELETE", "PATCH", "POST"):
        answer = browser.request(method, f"{browser.prefix}/", bearer(TOKEN))
        assert answer.status == 405
        assert "GET" in answer.header("Allow")
    assert browser.get("/sign-out", bearer(TOKEN)).status == 405


def test_what_is_too_long_is_refused(door: Door, make: Make) -> None:
    browser = door(make(**PEOPLE))
    sent = {"Content-Type": "application/x-www-form-urlencoded", **bearer(TOKEN)}
    for length, status in ((3_999_000, 403), (4_000_001, 413), (4_060_000, 413), (9_000_000, 413)):
        answer = browser.request("POST", f"{browser.prefix}/sign-in", sent, b"reason=".ljust(length, b"x"))
        assert answer.status == status, length


def test_wrong_settings_close_it(door: Door, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    browser = door(make(durable_console_tokens={"ada": "short"}))
    answer = browser.get("/")
    assert answer.status == 503
    assert "short" not in answer.text
    assert "ada" not in answer.text
    assert "a token of 5 characters for 'ada'" in caplog.text


def test_a_database_without_tables_is_told_in_the_log(
    door: Door, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    from .shop import shop

    app = shop(f"sqlite:///{tmp_path}/none.db", durable_console_tokens={"ada": TOKEN})
    app.conf.durable_auto_migrate = False
    answer = door(app).get("/", bearer(TOKEN))
    assert answer.status == 503
    assert "sqlite" not in answer.text
    assert "celery -A proj durable migrate" in caplog.text
