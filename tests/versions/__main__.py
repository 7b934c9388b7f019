"""The supported versions, tried: ``python -m tests.versions`` (``make versions``) writes docs/compatibility.md.

Each line below is a virtual environment of its own with a quick part of the tests that needs no services: what reads
Python's, Celery's, SQLAlchemy's and Django's own ways. The lines go over the versions side by side, and not over all
pairs of them. A Python that is not on this machine is said to be missing.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compatibility.md"
BEGIN, END = "<!-- versions: written by make versions -->", "<!-- end of versions -->"

OLDEST = ("pydantic==2.11.0", "alembic==1.13.0", "flask==3.0.0")
"""The oldest that pyproject.toml allows of what is not in the table."""

TESTS = (
    *(f"tests/core/test_{name}.py" for name in ("boundary", "codec", "faults", "replay")),
    *(f"tests/engine/test_{name}.py" for name in ("async", "steps")),
    "tests/store/test_conformance.py",
    "tests/testing/test_env.py",
    *(f"tests/worker/test_{name}.py" for name in ("eager", "schedules", "start", "task_options", "triggers")),
    "tests/contrib/test_django_door.py",
    "tests/contrib/test_flask_door.py",
)
NEEDED = (
    "cryptography",
    "hypothesis",
    "psycopg[binary]",
    "pymysql",
    "pytest",
    "redis",
    "werkzeug",
    "jinja2",
    "jsonschema",
)
NOWHERE = {
    "DURABLE_TEST_POSTGRESQL": "postgresql+psycopg://127.0.0.1:1/none",
    "DURABLE_TEST_MYSQL": "mysql+pymysql://127.0.0.1:1/none",
    "DURABLE_TEST_REDIS": "redis://127.0.0.1:1/0",
    "DURABLE_TEST_RABBITMQ": "amqp://127.0.0.1:1//",
}


class Line(NamedTuple):
    """What is installed together."""

    python: str
    celery: str
    sqlalchemy: str
    django: str
    others: tuple[str, ...] = ()


LINES = (
    Line("3.10", "==5.5.0", "==2.0.30", "==4.2.*", OLDEST),
    Line("3.11", "==5.6.*", "==2.0.*", "==4.2.*"),
    Line("3.12", "==5.7.*", "==2.1.*", "==5.2.*"),
    Line("3.13", "==5.7.*", "==2.1.*", ">=6"),
    Line("3.14", "==5.7.*", "==2.1.*", ">=6"),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.versions", description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="PYTHON", help="only the lines of this Python, and the page is left as it is")
    only = parser.parse_args().only
    table = ["| Python | Celery | SQLAlchemy | Django | pydantic | came to |", "| --- | --- | --- | --- | --- | --- |"]
    well = True
    for line in LINES:
        if only in (None, line.python):
            row, passed = tried(line)
            well = well and passed
            table.append(row)
            say(row)
    if only is None:
        write(table)
    return 0 if well else 1


def tried(line: Line) -> tuple[str, bool]:
    """A row of the table, and whether all is well as far as it was tried."""
    interpreter = found(line.python)
    if interpreter is None:
        return (
            f"| {line.python} | {line.celery} | {line.sqlalchemy} | {line.django} | | not run: no such Python |",
            True,
        )
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        python = Path(folder) / "venv" / "bin" / "python"
        run([interpreter, "-m", "venv", str(python.parents[1])])
        wanted = [f"celery{line.celery}", f"sqlalchemy{line.sqlalchemy}", f"django{line.django}"]
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, "--editable", str(ROOT), "flask>=3.0", *wanted, *line.others, *NEEDED])
        begun = time.monotonic()
        arguments = [
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--basetemp={folder}/tests",
            "-k",
            "not postgresql and not mysql",
        ]
        environment = {name: value for name, value in os.environ.items() if name != "CI"} | NOWHERE
        done = subprocess.run(
            [str(python), *arguments, *TESTS], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.monotonic() - begun
        if done.returncode:
            say(done.stdout[-6000:], done.stderr[-2000:])
        versions = [version(python, name) for name in ("celery", "sqlalchemy", "django", "pydantic")]
    says = re.findall(r"\d+ (?:passed|failed|error)\w*", done.stdout.splitlines()[-1]) if done.stdout else []
    came_to = ", ".join(says) or f"ended with {done.returncode}"
    say(f"{line.python}: {seconds:.0f} s")
    return f"| {' | '.join([full_version(interpreter), *versions, came_to])} |", done.returncode == 0


def found(python: str) -> str | None:
    """An interpreter of this version, in PATH or among pyenv's."""
    folder = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [
        shutil.which(f"python{python}"),
        *map(str, sorted(folder.glob(f"{python}.*/bin/python"), reverse=True)),
    ]
    for candidate in candidates:
        if (
            candidate
            and subprocess.run([candidate, "-c", "import ssl"], capture_output=True, check=False).returncode == 0
        ):
            return candidate
    return None


def full_version(interpreter: str) -> str:
    return output(interpreter, "import platform; print(platform.python_version())")


def version(python: Path, name: str) -> str:
    return output(str(python), f"from importlib.metadata import version; print(version({name!r}))")


def output(interpreter: str, code: str) -> str:
    return subprocess.run([interpreter, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def write(table: list[str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text("\n".join([f"{before}{BEGIN}", *table, f"{END}{after}"]), encoding="utf-8")


def say(*texts: str) -> None:
    for text in texts:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
