"""What is wrong with how a page looks, for whoever looks at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import Page

__all__ = ["NARROW", "WIDE", "complaints", "nameless"]

WIDE, NARROW = 1280, 390

_SCRIPT = (Path(__file__).parent / "looks.js").read_text()
_ROLES = frozenset({
    "button", "link", "textbox", "searchbox", "combobox", "checkbox", "radio", "spinbutton", "switch", "tab", "slider",
    "menuitem", "option", "DisclosureTriangle", "img", "image", "dialog", "progressbar", "ProgressIndicator",
})  # fmt: skip


def complaints(page: Page, *kinds: str) -> list[str]:
    """What the script that looks at the page has found, of these kinds."""
    found: list[str] = page.evaluate(
        "([script, kinds]) => { const looks = (0, eval)(script)(); return kinds.flatMap((kind) => looks[kind]()); }",
        [_SCRIPT, list(kinds)],
    )
    return found


def nameless(page: Page) -> list[str]:
    """What can be operated and has no name: the tree that a screen reader is given, as the browser makes it."""
    session = page.context.new_cdp_session(page)
    nodes: list[dict[str, Any]] = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    return [
        f"a {_value(node, 'role')} has no name: {node.get('backendDOMNodeId')}"
        for node in nodes
        if not node["ignored"] and _value(node, "role") in _ROLES and not _value(node, "name").strip()
    ]


def _value(node: dict[str, Any], name: str) -> str:
    return str(node.get(name, {}).get("value", ""))
