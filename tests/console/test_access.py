"""The settings that say who comes in, and whether a request comes from where it says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.routing import Map, Rule
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request, Response

from celery_durable import ConfigurationError
from celery_durable.console.access import Access
from celery_durable.console.asgi import AsgiApp
from celery_durable.console.keys import Keys
from celery_durable.console.origins import is_loopback, is_sent_from_here
from celery_durable.console.proxies import behind
from celery_durable.console.segments import SegmentConverter, from_segment, to_segment
from tests.console.browsing import Browser, by_asgi, by_wsgi
from tests.console.doors import HASH, PASSWORD, TOKEN

ANYTHING = st.text(st.characters(), max_size=60) | st.sampled_from(
    ["", "/", ".", "..", "a/b", "%2F", "a%2Fb", "../../etc", "~", "~YQ", "a?b#c", "\n", "a\r\nb", "\ud800", "é", " a ",
     "history.json"]
)  # fmt: skip
WORDS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def access(**given: Any) -> Access:
    return Access.of(lambda name, default: given.get(name.removeprefix("durable_console_"), default))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tokens": "secret"}, "durable_console_tokens is not what is expected: a mapping"),
        ({"tokens": ["a-token-that-is-long"]}, "durable_console_tokens is not what is expected"),
        ({"tokens": {"ada": None}}, "durable_console_tokens is not what is expected"),
        ({"tokens": {"": TOKEN}}, "durable_console_tokens is not what is expected"),
        ({"tokens": {"ada": "short"}}, "a token of 5 characters for 'ada'"),
        ({"tokens": {"ada": TOKEN, "bob": TOKEN}}, "one token for 'ada' and 'bob'"),
        ({"users": {"bob": PASSWORD}}, "has no hash of a password for 'bob'. Make one with"),
        ({"users": {"bob": "md5$salt$900150983cd24fb0d6963f7d28e17f72"}}, "has no hash of a password"),
        ({"allow": "*"}, "durable_console_allow is '\\*': a mapping"),
        ({"allow": {"ada": ["explode"]}}, "lets 'ada' do 'explode', which is no action: there are cancel"),
        ({"allow": {"ada": [["retry"]]}}, "which is no action"),
        ({"allow": {"ada": None}}, "has None for 'ada': a list of actions"),
        ({"read_only": "yes"}, "durable_console_read_only is 'yes'"),
    ],
)
def test_a_wrong_setting_says_what_is_expected(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        access(**given)
    assert PASSWORD not in str(caught.value)
    assert TOKEN not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    shown = repr(access(tokens={"ada": TOKEN}, users={"bob": HASH}))
    assert TOKEN not in shown
    assert HASH not in shown


def test_a_password_that_was_right_is_checked_again_each_time() -> None:
    known = access(users={"bob": HASH})
    assert [known.by_password("bob", PASSWORD) for _ in range(3)] == ["bob"] * 3
    assert known.by_password("bob", PASSWORD + "x") is None
    assert known.by_password("eve", PASSWORD) is None
    assert access().by_password("bob", PASSWORD) is None


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost", True), ("localhost:8585", True), ("LOCALHOST", True), ("127.0.0.1:1", True), ("127.8.8.8", True),
        ("::1", True), ("[::1]", True), ("[::1]:8585", True), ("0.0.0.0", False), ("::", False), ("", False),
        ("10.0.0.1", False), ("localhost.evil.example", False), ("127.0.0.1.evil.example", False), ("[::1", False),
        ("evil.example:8585", False), ("[::2]:80", False), ("0x7f.1", False),
    ],
)  # fmt: skip
def test_what_is_this_machine(host: str, here: bool) -> None:
    assert is_loopback(host) is here


@pytest.mark.parametrize("header", ["Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP"])
def test_what_a_proxy_has_passed_on_is_not_of_this_machine(header: str) -> None:
    def asked(**headers: str) -> Request:
        return Request(EnvironBuilder(headers=list(headers.items()), base_url="http://localhost:8585/").get_environ())

    assert is_sent_from_here(asked())
    assert not is_sent_from_here(asked(**{header: "203.0.113.7"}))


@pytest.mark.parametrize(
    ("proxies", "header", "path", "expected"),
    [
        (0, "/ops", "/x", "'' '/x'"),
        (1, "/ops", "/x", "'/ops' '/x'"),
        (1, "/ops/", "/x", "'/ops' '/x'"),
        (1, "/ops", "/ops/x", "'/ops' '/x'"),
        (1, "/ops", "/ops", "'/ops' '/'"),
        (1, "/ops", "/opsx", "'/ops' '/opsx'"),
        (1, "/evil, /ops", "/x", "'/ops' '/x'"),
        (2, "/outer, /inner", "/x", "'/outer' '/x'"),
        (2, "/ops", "/x", "'' '/x'"),
        (1, "//evil.example", "/x", "'' '/x'"),
        (1, "https://evil.example", "/x", "'' '/x'"),
        (1, "/a\\b", "/x", "'' '/x'"),
    ],
)
def test_the_prefix_of_a_proxy(proxies: int, header: str, path: str, expected: str) -> None:
    def shown(environ: dict[str, Any], start: Any) -> Any:
        request = Request(environ)
        return Response(f"{request.root_path!r} {request.path!r}")(environ, start)

    browser = Browser(by_wsgi(behind(shown, proxies)))
    assert browser.get(path, {"X-Forwarded-Prefix": header}).text == expected


@pytest.mark.parametrize(
    ("root", "path", "raw", "expected"),
    [
        ("", "/run/x", b"/run/x", "'' '/run/x'"),
        ("/ops", "/ops/run/x", b"/ops/run/x", "'/ops' '/run/x'"),  # as the specification has it
        ("/ops", "/run/x", b"/ops/run/x", "'/ops' '/run/x'"),  # Starlette before 0.33
        ("/run", "/run/x", b"/run/run/x", "'/run' '/run/x'"),  # the same, mounted where a page of ours is
        ("/ops", "/run/x", b"/run/x", "'/ops' '/run/x'"),  # uvicorn before 0.26, which is told its --root-path
        ("/ops", "/opsx", b"/opsx", "'/ops' '/opsx'"),
        ("/ops", "/ops/run/x", b"", "'/ops' '/run/x'"),  # a server that does not say what was sent
        ("/ops", "/ops", b"/ops", "'/ops' '/'"),
        ("/ö", "/ö/run/ü", b"/%C3%B6/run/%C3%BC", "'/ö' '/run/ü'"),
    ],
)
def test_where_an_asgi_server_says_that_it_is_mounted(root: str, path: str, raw: bytes, expected: str) -> None:
    def shown(environ: dict[str, Any], start: Any) -> Any:
        request = Request(environ)
        return Response(f"{request.root_path!r} {request.path!r}")(environ, start)

    app: Any = AsgiApp(shown, 100)  # type: ignore[arg-type]

    async def below(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await app(scope | {"root_path": root, "path": path, "raw_path": raw}, receive, send)

    assert Browser(by_asgi(below)).get("/").text == expected


# ------------------------------------------------------------------------------ what is signed


@WORDS
@given(who=ANYTHING, other=ANYTHING, browser=ANYTHING)
def test_a_mark_is_of_one_person_in_one_browser(who: str, other: str, browser: str) -> None:
    keys = Keys("database", "ada", TOKEN)
    mark = keys.form(who, browser)
    assert keys.is_form_of(who, browser, mark) is bool(browser)
    assert keys.is_form_of(other, browser, mark) is (bool(browser) and other == who)
    assert keys.is_form_of(who, other, mark) is (bool(other) and other == browser)
    assert not Keys("database", "ada", TOKEN + "x").is_form_of(who, browser, mark)
    assert not keys.is_form_of(who, browser, other)


@WORDS
@given(who=ANYTHING, data=st.data())
def test_a_cookie_that_was_tampered_with_is_nobodys(who: str, data: st.DataObject) -> None:
    keys = Keys("database", "ada", TOKEN)
    cookie = keys.session(who)
    assert keys.who(cookie) == who
    at = data.draw(st.integers(0, len(cookie) - 1))
    changed = cookie[:at] + data.draw(st.characters()) + cookie[at + data.draw(st.integers(0, 2)) :]
    assert keys.who(changed) == (who if changed == cookie else None)
    assert keys.who(data.draw(ANYTHING)) is None
    assert Keys("database", "bob", TOKEN).who(cookie) is None


def test_a_session_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = Keys("database", "ada", TOKEN)
    monkeypatch.setattr("celery_durable.console.keys.SESSION_SECONDS", -1)
    assert keys.who(keys.session("ada")) is None


# ---------------------------------------------------------------------------- ids in addresses


RULES = Map(
    [
        Rule("/run/<segment:run_id>", endpoint="run"),
        Rule("/run/<segment:run_id>/step/<segment:step_id>", endpoint="step"),
    ],
    converters={"segment": SegmentConverter},
    merge_slashes=False,
)


def echo(environ: dict[str, Any], start: Any) -> Any:
    endpoint, values = RULES.bind_to_environ(environ).match()
    return Response(ascii([endpoint, *values.values()]))(environ, start)


@WORDS
@given(run=ANYTHING, step=ANYTHING)
def test_any_id_goes_through_any_server(run: str, step: str) -> None:
    assert from_segment(to_segment(run)) == run
    urls = RULES.bind("localhost", "/ops")
    console: Any = AsgiApp(echo, 100)  # type: ignore[arg-type]
    for address, expected in (
        (urls.build("run", {"run_id": run}), ["run", run]),
        (urls.build("step", {"run_id": run, "step_id": step}), ["step", run, step]),
    ):
        path = address.removeprefix("/ops")
        assert path.isascii()
        assert not {"?", "#", "%", "\\", "\n"} & set(path)
        for browser in (Browser(by_wsgi(echo)), Browser(by_asgi(console))):
            assert browser.get(path).text == ascii(expected)


@pytest.mark.parametrize("segment", ["~!", "~YQ", "~YQ==", "~_w", "~a", "~é"])
def test_an_id_has_one_address(segment: str) -> None:
    with pytest.raises(ValueError):
        from_segment(segment)
