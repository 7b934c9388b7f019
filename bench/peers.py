"""One run of many tiny steps, against DBOS doing the same on the same database. DBOS is installed from PyPI into an
environment of its own, which is kept in ``.bench``.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from bench.harness import SERVERS, alternate, one_pass
from bench.steps import STEPS, many_steps
from celery_durable.store.store import Store

ENVIRONMENT = Path(__file__).parent.parent / ".bench"
PACKAGE = "dbos==3.4.*"
TURNS = 5


def main() -> None:
    python = _environment()
    print(
        f"\npeers: one workflow of {STEPS} tiny steps; microseconds per step, medians of {TURNS} alternating turns, "
        f"beside DBOS {_version(python)}"
    )
    with tempfile.TemporaryDirectory() as folder:
        compare("sqlite", f"sqlite:///{folder}/ours.db", f"sqlite:///{folder}/theirs.db", python)
    with _databases() as urls:
        if urls:
            compare("postgresql", *urls, python)


def compare(name: str, own_url: str, other_url: str, python: Path) -> None:
    store = Store(own_url)
    store.migrate()
    command = [str(python), str(Path(__file__).parent / "peer_dbos.py"), other_url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        while (line := peer.stdout.readline()) != "ready\n":
            assert line, "DBOS has ended by itself"

        def ours() -> float:
            began = time.perf_counter()
            one_pass(store, many_steps)
            return (time.perf_counter() - began) / STEPS

        def theirs() -> float:
            print(STEPS, file=peer.stdin, flush=True)
            return float(peer.stdout.readline()) / STEPS  # type: ignore[union-attr]

        ours(), theirs()  # warm
        own, other, ratio = alternate(TURNS, ours, theirs)
        peer.kill()
    store.engine.dispose()
    print(
        f"  {name:<11} ours {own * 1e6:7.0f}   DBOS {other * 1e6:7.0f}   {1 / ratio:.1f} times as many steps a second"
    )


def _environment() -> Path:
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, PACKAGE, "psycopg[binary]"], check=True)
    return python


def _version(python: Path) -> str:
    asked = "from importlib.metadata import version; print(version('dbos'))"
    return subprocess.run([str(python), "-c", asked], check=True, capture_output=True, text=True).stdout.strip()


@contextmanager
def _databases() -> Iterator[tuple[str, str] | None]:
    """Two new databases of the PostgreSQL that answers: ours, and theirs."""
    variable, url = SERVERS["postgresql"]
    server = make_url(os.environ.get(variable, url))
    names = [f"bench_{whose}_{uuid.uuid4().hex[:6]}" for whose in ("ours", "theirs")]
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            for name in names:
                connection.execute(text(f"CREATE DATABASE {name}"))
    except Exception as error:
        print(f"postgresql: does not answer, left out (set {variable}): {error}")
        yield None
        return
    own, other = (server.set(database=name) for name in names)
    try:
        shown = other.set(drivername="postgresql")
        yield own.render_as_string(hide_password=False), shown.render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            for name in names:
                connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        engine.dispose()
