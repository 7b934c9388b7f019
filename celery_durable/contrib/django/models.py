"""The durable tables as Django sees them: to be read, in the admin and by queries. What changes them is the client."""

from __future__ import annotations

from typing import get_args

from django.db import models

from ...model import RunStatus
from .project import table_prefix

__all__ = ["STATUSES", "DurableEvent", "DurableRun"]

STATUSES = [(status, status) for status in get_args(RunStatus)]
"""So that the admin has no need to ask for all that there are."""


class DurableRun(models.Model):
    """A run. Points in time are microseconds since 1970."""

    id = models.CharField(max_length=255, primary_key=True)
    task = models.CharField(max_length=255)
    status = models.CharField(max_length=12, choices=STATUSES)
    waiting_on = models.CharField(max_length=500, null=True)
    parent_id = models.CharField(max_length=255, null=True)
    created_at = models.BigIntegerField()
    finished_at = models.BigIntegerField(null=True)

    class Meta:
        managed = False  # the migrations make them, by the package's own
        db_table = f"{table_prefix()}run"
        default_permissions = ("view",)
        verbose_name = "run"

    def __str__(self) -> str:
        return self.id


class DurableEvent(models.Model):
    """An event that was emitted."""

    seq = models.BigIntegerField(primary_key=True)
    event_id = models.CharField(max_length=255, db_column="id")
    name = models.CharField(max_length=255)
    key = models.CharField(max_length=255, null=True)
    emitted_at = models.BigIntegerField()
    dispatched_at = models.BigIntegerField(null=True)

    class Meta:
        managed = False
        db_table = f"{table_prefix()}event"
        default_permissions = ("view",)
        verbose_name = "event"

    def __str__(self) -> str:
        return self.name
