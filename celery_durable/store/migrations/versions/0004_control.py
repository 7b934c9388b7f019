"""Operating runs: copies of runs, state, locks, lines, deadlines, who did what, logs, and how long a run is kept."""

import sqlalchemy as sa
from alembic import context, op

from celery_durable.store.tables import bounded, counter, unbounded

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    prefix = context.config.attributes["prefix"]
    for column in (
        sa.Column("generation", sa.Integer),
        sa.Column("restarts", sa.Integer),
        sa.Column("origin_id", bounded(255)),
        sa.Column("origin_step", bounded(255)),
        sa.Column("deadline_at", sa.BigInteger),
        sa.Column("resource", bounded(255)),
        sa.Column("queued_at", sa.BigInteger),
        sa.Column("keep_until", sa.BigInteger),
        sa.Column("blamed", unbounded()),
        sa.Column("reported", unbounded()),
    ):
        op.add_column(f"{prefix}run", column)
    op.create_index(f"ix_{prefix}run_created", f"{prefix}run", ["created_at", "id"])
    _partial_index(f"ix_{prefix}run_origin", f"{prefix}run", "origin_id")
    _partial_index(f"ix_{prefix}run_resource", f"{prefix}run", "resource", "status")
    _partial_index(f"ix_{prefix}run_queued", f"{prefix}run", "queued_at")
    _partial_index(f"ix_{prefix}run_keep", f"{prefix}run", "keep_until")
    _make_tables(prefix)


def _partial_index(name: str, table: str, column: str, *more: str) -> None:
    there = sa.text(f"{column} IS NOT NULL")
    op.create_index(name, table, [column, *more], postgresql_where=there, sqlite_where=there)


def _make_tables(prefix: str) -> None:
    op.create_table(
        f"{prefix}state",
        sa.Column("task", bounded(255), primary_key=True),
        sa.Column("key", bounded(255), primary_key=True),
        sa.Column("value", unbounded()),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
    )
    _partial_index(f"ix_{prefix}state_expires", f"{prefix}state", "expires_at")
    op.create_table(
        f"{prefix}turn",
        sa.Column("run_id", bounded(255), primary_key=True),
        sa.Column("step_id", bounded(255), primary_key=True),
        sa.Column("name", bounded(255), nullable=False),
        sa.Column("asked_at", sa.BigInteger, nullable=False),
        sa.Column("ttl", sa.BigInteger),
        sa.Column("until", sa.BigInteger),
    )
    op.create_index(f"ix_{prefix}turn_name", f"{prefix}turn", ["name", "asked_at"])
    op.create_table(
        f"{prefix}audit",
        sa.Column("seq", counter(), primary_key=True, autoincrement=True),
        sa.Column("run_id", bounded(255)),
        sa.Column("action", bounded(20), nullable=False),
        sa.Column("actor", bounded(255), nullable=False),
        sa.Column("reason", bounded(500)),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("details", unbounded()),
    )
    op.create_index(f"ix_{prefix}audit_run", f"{prefix}audit", ["run_id"])
    op.create_table(
        f"{prefix}log",
        sa.Column("run_id", bounded(255), primary_key=True),
        sa.Column("place", bounded(100), primary_key=True),
        sa.Column("step_id", bounded(255)),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("logger", bounded(255), nullable=False),
        sa.Column("message", unbounded(), nullable=False),
    )
