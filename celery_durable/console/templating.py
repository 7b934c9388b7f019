"""Templates, and what they call values, times and statuses. Everything they show is escaped unless it is ours."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..client.words import clock, counted, error_of, plain, span, took, value_of
from ..model import FINISHED
from .access import ACTIONS
from .assets import version
from .segments import to_segment
from .texts import widget_of

__all__ = ["render"]

_FOLDER = Path(__file__).parent / "templates"
_SHOWN = 20_000
"""Characters of a value that a page shows."""


def render(template: str, **values: Any) -> str:
    """A template with these values."""
    if (visit := values.get("visit")) is not None:
        values.setdefault("request", visit.request)
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        clock=clock, counted=counted, error=error_of, pretty=pretty, seconds=seconds, segment=to_segment,
        short=short, span=span, value=value_of, when=when,
    )  # fmt: skip
    environment.globals.update(
        ACTIONS=ACTIONS, FINISHED=FINISHED, STATUSES=STATUSES, asset_version=version, took=took, widget=widget_of,
    )  # fmt: skip
    return environment


STATUSES = ("pending", "running", "suspended", "paused", "completed", "failed", "cancelled")


def when(at: datetime | None, how: str = "ago") -> Markup | str:
    """A point in time. The script of the page says how long ago that is, or how long until then."""
    if at is None:
        return ""
    exact = at.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Markup('<time datetime="{}" data-time="{}" title="{}">{}</time>').format(exact, how, clock(at), clock(at))


def seconds(value: float | None) -> str:
    """A number of seconds as a length of time."""
    return "" if value is None else span(timedelta(seconds=value))


def pretty(value: Any) -> str:
    """A value as JSON for people; the beginning of a very long one."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=plain)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}\n... {len(text) - _SHOWN:,} characters more"


def short(value: Any, length: int = 120) -> str:
    """A value in one line, cut where it is long."""
    text = value if isinstance(value, str) else value_of(value)
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"
