"""Every command that the README and the docs show is one that there is, with options that it has."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from celery_durable.cli import durable

ROOT = Path(__file__).parents[2]
SHOWN = re.compile(r"^\$ celery -A proj durable (.+?)(?:\s+#.*)?$", re.MULTILINE)


def shown() -> list[str]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return sorted({line for page in pages for line in SHOWN.findall(page.read_text(encoding="utf-8"))})


@pytest.mark.parametrize("line", shown())
def test_a_command_is_as_it_is_shown(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("invoice.json").write_text("{}")
    name, *words = shlex.split(line)
    with durable.commands[name].make_context(name, words) as context:
        assert context.params


def test_the_page_has_all_commands() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert not [name for name in durable.commands if not re.search(rf"`{name}\b|durable {name}\b", page)]
    assert not [name for name, command in durable.commands.items() if not command.help]
