"""The store: every operation on the durable record, each one transaction and safe to do twice."""

from __future__ import annotations

from .base import new_token
from .eventlog import EventLog
from .handing import Handing

__all__ = ["Store", "new_token"]


class Store(Handing, EventLog):
    """The durable record of one application."""
