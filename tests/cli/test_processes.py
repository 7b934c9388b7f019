"""``celery -A proj durable``: the commands as they are found and called by people, in a pipe and on a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CELERY = (sys.executable, "-m", "celery")


@pytest.fixture
def environment(sqlite_url: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
    environment = plain | {"CLI_DATABASE": sqlite_url, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color"}
    start = "from tests.cli.proj import packs; packs.apply((2,), task_id='packs-1')"
    subprocess.run([sys.executable, "-c", start], env=environment, cwd=ROOT, check=True, timeout=60)
    return environment


def called(environment: dict[str, str], *words: str, app: str | None = "tests.cli.proj", **more: Any) -> Any:
    """A command in a pipe."""
    named = ("-A", app) if app else ()
    return subprocess.run(
        [*CELERY, *named, "durable", *words],
        env=environment, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False, **more,
    )  # fmt: skip


def on_terminal(environment: dict[str, str], *words: str) -> tuple[int, str]:
    """A command on a terminal of its own."""
    master, slave = pty.openpty()
    command = [*CELERY, "-A", "tests.cli.proj", "durable", *words]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    told = b""
    while True:
        try:
            read = os.read(master, 65536)
        except OSError:  # the terminal is closed
            break
        if not read:
            break
        told += read
    os.close(master)
    return process.wait(60), told.decode()


def test_in_a_pipe(environment: dict[str, str]) -> None:
    listed = called(environment, "runs")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert listed.stdout.splitlines()[1].split()[:3] == ["packs-1", "tests.cli.proj.packs", "completed"]
    assert json.loads(called(environment, "show", "packs-1", "--json").stdout)["result"] == "packed"
    watched = called(environment, "watch", "packs-1")
    assert watched.returncode == 0
    assert watched.stdout.splitlines()[-1].endswith(', 2 steps  "packed"')


def test_what_goes_wrong_is_a_line_and_an_exit_code(environment: dict[str, str]) -> None:
    for words, code in ((("show", "nope"), 1), (("cancel", "packs-1"), 1), (("runs", "--since", "x"), 2), (("no",), 2)):
        result = called(environment, *words)
        assert (result.returncode, result.stdout) == (code, "")
        assert "Error: " in result.stderr
        assert "Traceback" not in result.stderr
    assert "pass -A" in called(environment, "runs", app=None).stderr


def test_on_a_terminal_it_has_colours(environment: dict[str, str]) -> None:
    code, text = on_terminal(environment, "runs")
    assert code == 0
    assert "\x1b[32m✓ completed\x1b[0m" in text
    code, text = on_terminal(environment, "watch", "packs-1")
    assert code == 0
    assert text.count("\x1b[?25h") == 1


def test_unless_they_are_not_wanted(environment: dict[str, str]) -> None:
    _, text = on_terminal(environment | {"NO_COLOR": "1"}, "show", "packs-1")
    assert "\x1b[" not in text
    assert "✓ completed" in text


def test_where_letters_are_not_known_they_are_replaced(environment: dict[str, str]) -> None:
    result = called(environment | {"PYTHONIOENCODING": "latin-1"}, "show", "packs-1")
    assert result.returncode == 0
    assert "??" in result.stdout
