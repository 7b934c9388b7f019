"""Every link from one page to another, to a part of a page or to a picture leads somewhere; every command that a page
shows is there; and every error has its section."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import celery_durable.errors
from celery_durable.cli import durable
from celery_durable.errors import DurableError

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]

FENCED = re.compile(r"^(\s*)(`{3,}|~{3,}).*?^\s*\2`*\s*$", re.M | re.S)
IN_LINE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"(?<!\\)\[[^\]]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#{1,3} +(?P<title>.+?) *#*$", re.M)
COMMAND = re.compile(r"(?:celery -A proj |`)durable ([a-z]+)\b")
NO_COMMANDS = {"start"}
"""The name of a span."""


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The names of a page's parts, as GitHub and MyST make them of the headings."""
    made: set[str] = set()
    for heading in HEADING.finditer(prose(page)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading["title"]).replace("`", "").lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 0
        while (numbered := f"{name}-{number}" if number else name) in made:
            number += 1
        made.add(numbered)
    return made


def dead_links(page: Path) -> list[str]:
    dead = []
    for link in LINK.finditer(IN_LINE.sub("", prose(page))):
        target, _, anchor = link["target"].partition("#")
        if re.match(r"[a-z]+:", target):
            continue  # of somebody else's: no network here
        file = page if not target else (page.parent / target).resolve()
        if not file.is_file() or (anchor and anchor not in anchors(file)):
            dead.append(link["target"])
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `step.run` & more\n\n## Twice\n\n## Twice\n\n[a](#a-steprun--more) [b](#twice-1) [c](page.md#twice)\n"
        "[d](nowhere.md) [e](#nowhere) [f](page.md#twice-2)\n[g](https://example.com/#x) `[h](code.md)`\n"
        "```python\n# Not a heading\nx = {}[i](code)\n```\n![j](images/none.png) [](missing.md) [k](#not-a-heading)\n"
    )
    wrong = ["nowhere.md", "#nowhere", "page.md#twice-2", "images/none.png", "missing.md", "#not-a-heading"]
    assert dead_links(page) == wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_is_there(page: Path) -> None:
    shown = set(COMMAND.findall(page.read_text(encoding="utf-8")))
    assert shown - {*durable.commands, *NO_COMMANDS} == set()


ERRORS = [
    kind
    for name in celery_durable.errors.__all__
    if isinstance(kind := getattr(celery_durable.errors, name), type) and issubclass(kind, DurableError)
]


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_has_its_section(kind: type[DurableError]) -> None:
    """When it is raised, what it says, and what to do."""
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {kind.code}\n\n(.+?)(?=^## |\Z)", page, re.M | re.S)
    assert found is not None, f"docs/errors.md lacks the section {kind.code}"
    section = found[1]
    assert section.startswith(f"**`{kind.__name__}`**")
    if kind is not DurableError:
        assert re.search(r"^```text\n.+?^```$", section, re.M | re.S), "an example of its message"
        assert "**Do:**" in section


def test_no_section_is_of_an_error_that_is_not_there() -> None:
    sections = re.findall(r"^## (.+)$", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"), re.M)
    assert set(sections) == {kind.code for kind in ERRORS}
