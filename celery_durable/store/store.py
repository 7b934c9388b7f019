"""The store: every operation on the durable record, each one transaction and safe to do twice."""

from __future__ import annotations

from .base import new_token
from .eventlog import EventLog
from .events import Events
from .starting import Starting

__all__ = ["Store", "new_token"]


class Store(Starting, Events, EventLog):
    """The durable record of one application."""
