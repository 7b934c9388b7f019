"""The files that every page uses: they come from here alone, and are kept by browsers until they change."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

__all__ = ["TYPES", "asset", "version"]

_FOLDER = Path(__file__).parent / "static"

TYPES = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "door.css": "text/css; charset=utf-8",
    "forms.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "pages.css": "text/css; charset=utf-8",
    "run.css": "text/css; charset=utf-8",
    "scale.css": "text/css; charset=utf-8",
}


@cache
def asset(name: str) -> bytes:
    """What a file holds."""
    if name == "scale.css":
        return _scale().encode("ascii")
    return (_FOLDER / name).read_bytes()


@cache
def version(name: str) -> str:
    """What tells this content of a file from every other."""
    return hashlib.sha256(asset(name)).hexdigest()[:12]


def _scale() -> str:
    """Where a bar begins and how wide it is, in thousandths: styles in the page itself are forbidden by its policy."""
    places = "".join(f".x{n}{{left:{n / 10:g}%}}.w{n}{{width:{n / 10:g}%}}" for n in range(1001))
    return f"{places}\n"
