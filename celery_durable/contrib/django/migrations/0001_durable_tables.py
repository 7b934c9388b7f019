"""The durable tables, and what Django knows of them."""

from __future__ import annotations

from django.db import migrations, models

from celery_durable.contrib.django.operations import MakeDurableTables
from celery_durable.contrib.django.project import table_prefix

STATUSES = [
    (status, status) for status in ("pending", "running", "suspended", "paused", "completed", "failed", "cancelled")
]


class Migration(migrations.Migration):
    initial = True
    atomic = False  # the tables are made by a connection of the package's own
    dependencies: list[tuple[str, str]] = []
    operations = [
        MakeDurableTables("0006"),
        migrations.CreateModel(
            name="DurableRun",
            fields=[
                ("id", models.CharField(max_length=255, primary_key=True, serialize=False)),
                ("task", models.CharField(max_length=255)),
                ("status", models.CharField(choices=STATUSES, max_length=12)),
                ("waiting_on", models.CharField(max_length=500, null=True)),
                ("parent_id", models.CharField(max_length=255, null=True)),
                ("created_at", models.BigIntegerField()),
                ("finished_at", models.BigIntegerField(null=True)),
            ],
            options={
                "verbose_name": "run",
                "db_table": f"{table_prefix()}run",
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
        migrations.CreateModel(
            name="DurableEvent",
            fields=[
                ("seq", models.BigIntegerField(primary_key=True, serialize=False)),
                ("event_id", models.CharField(db_column="id", max_length=255)),
                ("name", models.CharField(max_length=255)),
                ("key", models.CharField(max_length=255, null=True)),
                ("emitted_at", models.BigIntegerField()),
                ("dispatched_at", models.BigIntegerField(null=True)),
            ],
            options={
                "verbose_name": "event",
                "db_table": f"{table_prefix()}event",
                "managed": False,
                "default_permissions": ("view",),
            },
        ),
    ]
