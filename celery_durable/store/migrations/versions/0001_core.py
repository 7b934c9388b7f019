"""Runs, what they were started with, their steps, and named leases."""

import sqlalchemy as sa
from alembic import context, op

from celery_durable.store.tables import bounded, unbounded

revision = "0001"
down_revision = None


def upgrade() -> None:
    prefix = context.config.attributes["prefix"]
    op.create_table(
        f"{prefix}run",
        sa.Column("id", bounded(255), primary_key=True),
        sa.Column("task", bounded(255), nullable=False),
        sa.Column("status", bounded(12), nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("wake_at", sa.BigInteger),
        sa.Column("waiting_on", bounded(500)),
        sa.Column("worker", bounded(255)),
        sa.Column("sends", sa.Integer, nullable=False),
        sa.Column("passes", sa.Integer, nullable=False),
        sa.Column("retries", sa.Integer, nullable=False),
        sa.Column("recoveries", sa.Integer, nullable=False),
        sa.Column("progress", sa.Integer, nullable=False),
        sa.Column("input_hash", bounded(32), nullable=False),
        sa.Column("code_version", bounded(64)),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("delivered_at", sa.BigInteger),
        sa.Column("result", unbounded()),
        sa.Column("error", unbounded()),
    )
    op.create_index(
        f"ix_{prefix}run_due",
        f"{prefix}run",
        ["due_at"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
        sqlite_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(f"ix_{prefix}run_status", f"{prefix}run", ["status", "created_at"])
    op.create_table(
        f"{prefix}input",
        sa.Column("run_id", bounded(255), primary_key=True),
        sa.Column("arguments", unbounded(), nullable=False),
        sa.Column("message", unbounded(), nullable=False),
    )
    op.create_table(
        f"{prefix}step",
        sa.Column("run_id", bounded(255), primary_key=True),
        sa.Column("id", bounded(255), primary_key=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("kind", bounded(20), nullable=False),
        sa.Column("function", bounded(255)),
        sa.Column("status", bounded(12), nullable=False),
        sa.Column("input", unbounded()),
        sa.Column("input_hash", bounded(32), nullable=False),
        sa.Column("result", unbounded()),
        sa.Column("error", unbounded()),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("wake_at", sa.BigInteger),
        sa.Column("heartbeat", unbounded()),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
    )
    op.create_table(
        f"{prefix}lease",
        sa.Column("name", bounded(100), primary_key=True),
        sa.Column("holder", bounded(255), nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
    )
