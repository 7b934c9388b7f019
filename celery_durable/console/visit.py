"""One request of one person, and all that a page needs to answer it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from werkzeug.exceptions import Forbidden
from werkzeug.routing import MapAdapter
from werkzeug.utils import redirect
from werkzeug.wrappers import Request, Response

from ..worker.durable import Durable
from .templating import render

if TYPE_CHECKING:
    from .site import Console

__all__ = ["Visit"]

SECTIONS = {
    "runs": "runs", "run": "runs", "events": "events", "event": "events", "tasks": "tasks", "task": "tasks",
    "workers": "workers", "deeds": "deeds",
}  # fmt: skip


@dataclass
class Visit:
    """What a page gets. Pages are functions of a visit, and of what stands in their address."""

    console: Console
    request: Request
    urls: MapAdapter
    who: str
    mark: str
    """What every form that changes something sends along."""
    signed_in: bool = False
    """Whether it is by the console's own cookie, so that signing out means something."""
    page: str = ""

    @property
    def durable(self) -> Durable:
        """The client."""
        return self.console.durable

    @property
    def args(self) -> Mapping[str, str]:
        """What stands behind the question mark."""
        return self.request.args

    @property
    def section(self) -> str:
        """The entry of the menu that the page belongs to."""
        return SECTIONS.get(self.page.partition("-")[0], "")

    def may(self, action: str) -> bool:
        """Whether this person may do that."""
        return self.console.access.may(self.who, action)

    def demand(self, action: str) -> None:
        """Refuse, unless this person may do that."""
        if self.may(action):
            return
        if self.console.access.read_only:
            raise Forbidden("This console is read-only: durable_console_read_only is set, and nothing can be changed.")
        raise Forbidden(f"{self.who} may not {action} here: durable_console_allow says who may do what.")

    def url(self, page: str, /, query: Mapping[str, Any] | None = None, **values: Any) -> str:
        """The address of a page; ``query`` is what stands behind its question mark, without what is empty."""
        path = self.urls.build(page, values)
        asked = [(name, item) for name, value in (query or {}).items() for item in _several(value)]
        return f"{path}?{urlencode(asked)}" if asked else path

    def here(self, **changes: Any) -> str:
        """The address of this page with other parameters; ``None`` takes one away."""
        query: dict[str, Any] = {name: self.request.args.getlist(name) for name in self.request.args}
        asked = [(name, item) for name, value in (query | changes).items() for item in _several(value)]
        path = f"{self.request.root_path}{self.request.path}"
        return f"{path}?{urlencode(asked)}" if asked else path

    def args_of(self, *but: str) -> dict[str, list[str]]:
        """What stands behind the question mark, without the place on a list, and without these."""
        return {name: self.request.args.getlist(name) for name in self.request.args if name not in ("after", *but)}

    def redirect(self, page: str, /, query: Mapping[str, Any] | None = None, **values: Any) -> Response:
        """Send the browser to a page, once something is done."""
        return redirect(self.url(page, query, **values), 303)

    def render(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page made of a template. One that has not changed is not sent again to those who look at it live."""
        response = Response(render(template, visit=self, **values), status, content_type="text/html; charset=utf-8")
        if status == 200:
            response.set_etag(hashlib.sha256(response.get_data()).hexdigest()[:32])
            response.make_conditional(self.request)
        return response


def _several(value: Any) -> list[str]:
    if value is None or value == "":
        return []
    return [str(item) for item in value] if isinstance(value, (list, tuple)) else [str(value)]
