"""The Python of a Markdown page: finding its blocks, and running them.

A page reads as a story, and runs as one: its blocks run in order, in the one namespace of a process of its own. A block
is left out only by a comment directly before it that says why:

    <!-- not run: needs an account at the payment provider -->

To overlook a block would be to promise untested code, so the lines that open one are also counted in a way that knows
nothing of Markdown; a page where the two counts differ is refused.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^(?P<indent>\s*)(?P<fence>`{3,}|~{3,})\s*(?P<info>[^`]*)$")
DIRECTIVE = re.compile(r"^\{(?P<name>[\w:-]+)\}\s*(?P<argument>\S*)")
CODE_DIRECTIVES = {"code", "code-block", "code-cell", "sourcecode"}
PYTHON = {"python", "python3", "py", "py3"}

OPENING = r"(?:`{3,}|~{3,})\W*(?:(?:code|code-block|code-cell|sourcecode)\}\s*)?"
CLAIMED = re.compile(rf"^[\s>*+\-\d.]*{OPENING}py(?:thon)?3?\b", re.I)
SESSION = re.compile(rf"^[\s>*+\-\d.]*{OPENING}(?:pycon|ipython\w*|doctest)\b", re.I)
NOT_RUN = re.compile(r"^\s*<!--\s*not run\b:?\s*(?P<reason>.*?)\s*-->\s*$", re.I)

TIMEOUT = 120


class PageError(Exception):
    """The page can't be run as it is written; the message says where and what to change."""


@dataclass(frozen=True)
class Block:
    line: int  # of the fence, from 1
    code: str
    not_run: str | None = None  # the reason


def python_blocks(text: str, name: str = "page") -> list[Block]:
    """Its Python blocks from top to bottom, those in admonitions too."""
    lines = text.splitlines()
    blocks: list[Block] = []
    reason: tuple[int, str] | None = None
    inside: list[str] = []  # fences of directives whose content is Markdown again
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        comment, fence = NOT_RUN.match(line), FENCE.match(line)
        if comment:
            if not comment["reason"]:
                raise PageError(f"{name}:{number}: say why: <!-- not run: reason -->")
            if reason:
                raise PageError(f"{name}:{reason[0]}: no Python block follows this comment directly")
            reason = (number, comment["reason"])
            continue
        if inside and fence and not fence["info"] and _closes(fence["fence"], inside[-1]):
            inside.pop()
        elif fence:
            language, holds_markdown = _kind(fence["info"])
            if holds_markdown:
                inside.append(fence["fence"])
            else:
                start = number
                while number < len(lines) and not _ends(lines[number], fence["fence"]):
                    number += 1
                number += 1
                if language in PYTHON:
                    code = _code(lines[start : number - 1], directive=fence["info"].startswith("{"))
                    blocks.append(Block(start, code, reason and reason[1]))
                    reason = None
        elif not line.strip():
            continue
        if reason:
            raise PageError(f"{name}:{reason[0]}: no Python block follows this comment directly")
    if reason:
        raise PageError(f"{name}:{reason[0]}: no Python block follows this comment directly")
    _refuse_overlooked(lines, blocks, name)
    return blocks


def _kind(info: str) -> tuple[str, bool]:
    """The language of a fenced block, and whether it is a directive that holds Markdown."""
    directive = DIRECTIVE.match(info)
    if not directive:
        return info.partition(" ")[0].strip("{}").lower(), False
    if directive["name"] in CODE_DIRECTIVES:
        return directive["argument"].lower(), False
    return "", True


def _closes(fence: str, opening: str) -> bool:
    return fence[0] == opening[0] and len(fence) >= len(opening)


def _ends(line: str, opening: str) -> bool:
    fence = FENCE.match(line)
    return bool(fence and not fence["info"].strip() and _closes(fence["fence"], opening))


def _code(lines: list[str], *, directive: bool) -> str:
    """The block's code; a directive's options become blank lines, so that its lines keep their numbers."""
    code = textwrap.dedent("\n".join(lines)).split("\n")
    for index, line in enumerate(code if directive else ()):
        if line.strip() and not re.match(r":[\w-]+:", line):
            break
        code[index] = ""
    return "\n".join(code) + "\n"


def _refuse_overlooked(lines: list[str], blocks: list[Block], name: str) -> None:
    found = {block.line for block in blocks}
    for number, line in enumerate(lines, 1):
        if SESSION.search(line):
            raise PageError(f"{name}:{number}: a session with prompts can't be run: write it as a python block")
        if CLAIMED.match(line) and number not in found:
            raise PageError(
                f"{name}:{number}: a Python block that can't be run where it stands (in a quote, after a list's"
                " mark, inside another block): put it on lines of its own"
            )


# Runs in a process of its own: the blocks are the module __main__, and keep the page's name and line numbers in
# tracebacks. After each block it says so, for a block could end the process early.
RUNNER = """
import json, sys, types

page, blocks, report = json.loads(sys.argv[1])
main = sys.modules["__main__"] = types.ModuleType("__main__")
sys.argv[:] = [page]
for line, code in blocks:
    exec(compile("\\n" * line + code, page, "exec", dont_inherit=True), main.__dict__)
    with open(report, "a") as out:
        print(line, file=out)
"""


def run_page(page: Path, name: str, scratch: Path) -> str | None:
    """Run the page's blocks, in an empty directory inside `scratch`; None, or what went wrong."""
    blocks = [block for block in python_blocks(page.read_text(encoding="utf-8"), name) if block.not_run is None]
    if not blocks:
        return None
    cwd, report = scratch / "cwd", scratch / "blocks-run"
    cwd.mkdir()
    report.touch()
    job = json.dumps([str(page), [(block.line, block.code) for block in blocks], str(report)])
    try:
        done = subprocess.run(
            [sys.executable, "-c", RUNNER, job],
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout.decode(errors="replace") if isinstance(expired.stdout, bytes) else expired.stdout
        return f"{name}: still running after {TIMEOUT} s, in the block after line {_last(report)}\n{output or ''}"
    ran = [int(line) for line in report.read_text().split()]
    missed = [block.line for block in blocks if block.line not in ran]
    if done.returncode or missed:
        where = f"the block at line {missed[0]}" if missed else "the end"
        return f"{name}: ended with code {done.returncode} in {where}\n{done.stdout}"
    return None


def _last(report: Path) -> str:
    return (report.read_text().split() or ["0"])[-1]
