"""What steps did to the world outside: one line each in a file, written at once, so that nothing's death loses one."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

__all__ = ["VARIABLE", "Effect", "did", "read_effects"]

VARIABLE = "CHAOS_EFFECTS"


class Effect(NamedTuple):
    run: str
    name: str
    nonce: str
    pid: int
    at: float
    """By the clock that runs since the machine started: all processes have it, and nobody puts it forward."""


def did(run: str, name: str) -> str:
    """Do it: append a line. What comes back is another value each time."""
    effect = Effect(run, name, secrets.token_hex(6), os.getpid(), time.monotonic())
    line = json.dumps(effect) + "\n"
    descriptor = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)
    return effect.nonce


def read_effects(path: Path) -> dict[tuple[str, str], list[Effect]]:
    """By run and name, in the order in which they were done."""
    found: dict[tuple[str, str], list[Effect]] = defaultdict(list)
    if path.exists():
        for line in path.read_text().splitlines():
            effect = Effect(*json.loads(line))
            found[effect.run, effect.name].append(effect)
    return found
