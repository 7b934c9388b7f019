"""``Durable``: the client of one Celery app."""

from __future__ import annotations

from typing import Any

from ..client import Client
from ..model import EventReceipt
from ..store.records import Aftermath
from .emitting import emit_by
from .install import install
from .runtime import runtime_of
from .sending import follow

__all__ = ["Durable"]


class Durable(Client):
    """Reads and operates the durable runs of a Celery app: ``Durable(app).get(run_id)``."""

    def __init__(self, app: Any) -> None:
        install(app)
        super().__init__(runtime_of(app).store)
        self.app = app

    def _follow(self, aftermath: Aftermath) -> None:
        follow(self.app, aftermath)

    def emit(
        self,
        name: str,
        payload: Any = None,
        *,
        key: str | None = None,
        event_id: str | None = None,
        session: Any = None,
    ) -> EventReceipt:
        """As :func:`celery_durable.emit`, for this app."""
        return emit_by(self.app, name, payload, key=key, event_id=event_id, session=session)
