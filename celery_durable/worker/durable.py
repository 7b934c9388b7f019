"""``Durable``: the client of one Celery app."""

from __future__ import annotations

from typing import Any

from ..client import Client
from .install import install
from .runtime import runtime_of

__all__ = ["Durable"]


class Durable(Client):
    """Reads and operates the durable runs of a Celery app: ``Durable(app).get(run_id)``."""

    def __init__(self, app: Any) -> None:
        install(app)
        super().__init__(runtime_of(app).store)
