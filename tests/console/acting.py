"""What a person does with a page: look at it, fill in its form, send it."""

from __future__ import annotations

import html
import re
from typing import Any

from werkzeug.test import Client

from .conftest import mark_of

__all__ = ["hidden_of", "send", "text_of"]


def send(client: Client, path: str, /, **fields: Any) -> Any:
    """Look at a page, and send its form with these fields besides those that are hidden in it."""
    page = client.get(path)
    assert mark_of(page), f"{path} has no form: {page.status}"
    return client.post(path, data=hidden_of(page) | fields)


def hidden_of(page: Any) -> dict[str, str]:
    """What a form sends along without being asked."""
    hidden = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', page.text)
    return {html.unescape(name): html.unescape(value) for name, value in hidden}


def text_of(page: Any) -> str:
    """What there is to read on a page."""
    main = re.sub(r"<script.*?</script>", "", page.text.partition("<main")[2], flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", main)).split())
