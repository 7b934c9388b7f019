"""``celery -A proj durable console``: a process that serves, or says why it does not."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from celery_durable import Durable
from celery_durable.client import this_user
from tests.console.browsing import Browser, by_http
from tests.console.doors import TOKEN
from tests.console.shop import shop
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "celery", "-A", "tests.console.project", "durable", "console")
RESUME = "/run/order-16/resume"


class Served:
    """The command as a process."""

    def __init__(self, folder: Path, environment: dict[str, str], *words: str) -> None:
        self._said = folder / "said"
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [*COMMAND, *words],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                # As on a terminal, also where the tests themselves were started in the background.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        self.url = wait_until(self._url, 60, "the command says where it is")

    @property
    def said(self) -> str:
        return self._said.read_text()

    def browser(self) -> Browser:
        return Browser(by_http(self.url))

    def end_by(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(20)

    def _url(self) -> str:
        assert self.process.poll() is None, self.said
        found = re.search(r"http://\S+/", self.said)
        return found[0] if found else ""


@pytest.fixture
def environment(database: Path) -> dict[str, str]:
    return os.environ | {"CONSOLE_DATABASE": str(database), "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def serve(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(*words: str, **settings: Any) -> Served:
        started.append(
            Served(tmp_path, environment | {"CONSOLE_SETTINGS": json.dumps(settings)}, "--port", "0", *words)
        )
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait(10)


def refused(environment: dict[str, str], *words: str, **settings: Any) -> tuple[int, str]:
    done = subprocess.run(
        [*COMMAND, *words],
        cwd=ROOT,
        env=environment | {"CONSOLE_SETTINGS": json.dumps(settings)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


def test_on_this_machine_it_is_for_whoever_is_there(serve: Callable[..., Served], database: Path) -> None:
    served = serve()
    assert f"The console is at {served.url}   (Ctrl-C ends it)" in served.said
    browser = served.browser()
    page = browser.get("/")
    assert page.status == 200
    assert page.header("Server") == "celery_durable"
    for link in page.links():
        if "/static/" in link:
            assert browser.request("GET", link).status == 200
    # Another site's name that points here, and a proxy that nobody has told of
    browser.host = "evil.example"
    assert browser.get("/").status == 403
    browser.host = "localhost"
    assert browser.get("/", {"X-Forwarded-For": "203.0.113.7"}).status == 403
    # When
    assert browser.act(RESUME).status == 303
    # Then
    deeds = Durable(shop(f"sqlite:///{database}")).audit()
    assert [deed.actor for deed in deeds if (deed.run_id, deed.action) == ("order-16", "resume")] == [this_user()]
    assert browser.post(RESUME, reason="x" * 5_000_000).status == 413
    assert served.end_by(signal.SIGINT) == 0
    assert "Traceback" not in served.said


def test_for_programs_it_says_where_it_is(serve: Callable[..., Served]) -> None:
    served = serve("--json", "--read-only")
    assert json.loads(served.said) == {"url": served.url}
    page = served.browser().get("/")
    assert (page.status, "read-only" in page.text) == (200, True)
    assert served.browser().get(RESUME).status == 403
    assert served.end_by(signal.SIGTERM) == 0


def test_with_tokens_it_listens_for_others(serve: Callable[..., Served]) -> None:
    served = serve("--host", "0.0.0.0", durable_console_tokens={"ada": TOKEN})
    served.url = served.url.replace("0.0.0.0", "127.0.0.1")
    browser = served.browser()
    assert browser.follow(browser.get("/")).status == 200
    page = browser.follow(browser.post("/sign-in", token=TOKEN))
    assert (page.status, "You are ada" in page.text) == (200, True)


@pytest.mark.parametrize("words", [("--host", "0.0.0.0"), ("--host", "::"), ("--host", ""), ("--proxies", "1")])
def test_it_is_not_open_to_the_world(environment: dict[str, str], words: tuple[str, ...]) -> None:
    code, said = refused(environment, *words)
    assert code == 2
    assert "set durable_console_tokens or durable_console_users in the Celery configuration first" in said


def test_what_goes_wrong_is_a_line(environment: dict[str, str], tmp_path: Path) -> None:
    code, said = refused(environment, durable_console_tokens={"ada": "short"})
    assert (code, "a token of 5 characters for 'ada'" in said) == (1, True)
    code, said = refused(environment | {"CONSOLE_DATABASE": str(tmp_path / "none" / "x.db")})
    assert (code, "does not answer" in said) == (1, True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, said = refused(environment, "--port", str(port))
    assert (code, f"nothing can listen at 127.0.0.1:{port}: Address already in use" in said) == (1, True)
