"""How a program of another engine is spoken to: each line of its input is a measurement's name and its arguments, and
the answer is one line, the figures as JSON. It says ``ready`` first.

These programs run in an environment that has nothing of ours: this module and they import only the standard library
and the engine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

READY = "ready"


def serve(measurements: Mapping[str, Callable[..., list[float]]]) -> None:
    """Answer until the input ends. Arguments are numbers."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # an engine that prints does not answer
    print(READY, file=answers, flush=True)
    for line in sys.stdin:
        name, arguments = parsed(line)
        print(json.dumps(measurements[name](*arguments)), file=answers, flush=True)


def parsed(line: str) -> tuple[str, list[Any]]:
    """A measurement's name and its numbers."""
    name, *arguments = line.split()
    return name, [float(argument) if "." in argument else int(argument) for argument in arguments]
