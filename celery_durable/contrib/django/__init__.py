"""celery_durable in a Django project."""

from __future__ import annotations

from typing import Any

from ...model import EventReceipt
from ...worker.joining_django import emit_in_django

__all__ = ["emit"]


def emit(
    name: str,
    payload: Any = None,
    *,
    key: str | None = None,
    event_id: str | None = None,
    using: str | None = None,
) -> EventReceipt:
    """Publish an event that commits with the rows of the current ``transaction.atomic``, or not at all.

    The durable database has to be one of ``DATABASES``; ``using`` names it where that is not plain.
    """
    return emit_in_django(name, payload, using=using, key=key, event_id=event_id)
