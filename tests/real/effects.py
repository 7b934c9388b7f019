"""What steps did to the world: one line each in a file, written at once, so that SIGKILL loses none."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

VARIABLE = "REAL_EFFECTS"


class Effect(NamedTuple):
    run: str
    name: str
    pid: int


def effect(run: str, name: str) -> str:
    """Do it: append a line."""
    with Path(os.environ[VARIABLE]).open("ab", buffering=0) as file:
        file.write(f"{run} {name} {os.getpid()}\n".encode())
    return name


def effects(run: str | None = None, name: str | None = None) -> list[Effect]:
    """What was done, in order."""
    path = Path(os.environ[VARIABLE])
    lines = path.read_text().splitlines() if path.exists() else []
    done = [Effect(parts[0], parts[1], int(parts[2])) for parts in (line.split(" ") for line in lines)]
    return [one for one in done if run in (None, one.run) and name in (None, one.name)]
