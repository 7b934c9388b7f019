"""The store: every operation on the durable record, each one transaction and safe to do twice."""

from __future__ import annotations

from .base import new_token
from .eventlog import EventLog
from .finding import Finding
from .lone import Lone
from .operating import Operating
from .sharing import Sharing

__all__ = ["Store", "new_token"]


class Store(Operating, Lone, Sharing, EventLog, Finding):
    """The durable record of one application."""
