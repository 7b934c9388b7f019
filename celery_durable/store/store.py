"""The store: every operation on the durable record, each one transaction and safe to do twice."""

from __future__ import annotations

from .base import new_token
from .recording import Recording
from .starting import Starting
from .upkeep import Upkeep

__all__ = ["Store", "new_token"]


class Store(Starting, Recording, Upkeep):
    """The durable record of one application."""
