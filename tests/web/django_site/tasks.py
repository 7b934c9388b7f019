"""A task that belongs to no app in particular."""

from __future__ import annotations

from celery import shared_task

from celery_durable import DurableTask


@shared_task(base=DurableTask, name="web.shared")
def shared(value: str) -> str:
    return value
