"""How a status looks on a screen."""

from __future__ import annotations

from .tables import Cell, Screen

__all__ = ["status_cell"]

_COLORS = {
    "completed": "green",
    "failed": "red",
    "cancelled": "magenta",
    "running": "cyan",
    "suspended": "blue",
    "paused": "yellow",
    "waiting": "blue",
    "started": "cyan",
}
_SIGNS = {
    "completed": "✓",
    "failed": "✗",
    "cancelled": "⊘",
    "running": "▶",
    "suspended": "◌",
    "paused": "‖",
    "pending": "·",
    "waiting": "◌",
    "started": "▶",
}


def status_cell(status: str, screen: Screen) -> Cell:
    """A status; for people with a sign that is found at a glance."""
    text = f"{_SIGNS.get(status, ' ')} {status}" if screen.is_terminal else status
    return Cell(text, _COLORS.get(status), bold=status in ("failed", "paused"))
