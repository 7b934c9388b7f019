"""Paths as WSGI has them."""

from __future__ import annotations

__all__ = ["wsgi_path"]


def wsgi_path(path: str) -> str:
    """A path's bytes, each as a character."""
    return path.encode("utf-8", "surrogateescape").decode("latin-1")
