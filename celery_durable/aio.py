"""The verbs of ``async def`` durable tasks: ``from celery_durable.aio import step``, and await them."""

from .engine.awaiting import step

__all__ = ["step"]
