"""Events, the waits for them, and who has taken which."""

import sqlalchemy as sa
from alembic import context, op

from celery_durable.store.tables import GATES, bounded, counter, unbounded

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    prefix = context.config.attributes["prefix"]
    op.create_table(
        f"{prefix}event",
        sa.Column("seq", counter(), primary_key=True, autoincrement=True),
        sa.Column("id", bounded(255), nullable=False),
        sa.Column("name", bounded(255), nullable=False),
        sa.Column("key", bounded(255)),
        sa.Column("payload", unbounded(), nullable=False),
        sa.Column("content_hash", bounded(32), nullable=False),
        sa.Column("emitted_at", sa.BigInteger, nullable=False),
        sa.Column("emitted_by", bounded(255)),
        sa.Column("due_at", sa.BigInteger),
        sa.Column("sends", sa.Integer, nullable=False),
        sa.Column("dispatched_at", sa.BigInteger),
        sa.Column("error", unbounded()),
    )
    op.create_index(f"ix_{prefix}event_id", f"{prefix}event", ["id"], unique=True)
    op.create_index(
        f"ix_{prefix}event_due",
        f"{prefix}event",
        ["due_at"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
        sqlite_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(f"ix_{prefix}event_key", f"{prefix}event", ["name", "key", "emitted_at"])
    op.create_index(f"ix_{prefix}event_name", f"{prefix}event", ["name", "emitted_at"])
    op.create_table(
        f"{prefix}wait",
        sa.Column("run_id", bounded(255), primary_key=True),
        sa.Column("step_id", bounded(255), primary_key=True),
        sa.Column("name", bounded(255), nullable=False),
        sa.Column("key", bounded(255)),
        sa.Column("match", unbounded()),
        sa.Column("since", sa.BigInteger, nullable=False),
    )
    op.create_index(f"ix_{prefix}wait_key", f"{prefix}wait", ["name", "key"])
    op.create_table(
        f"{prefix}taken",
        sa.Column("run_id", bounded(255), primary_key=True),
        sa.Column("event", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("step_id", bounded(255)),
        sa.Column("taken_at", sa.BigInteger, nullable=False),
    )
    op.create_index(f"ix_{prefix}taken_event", f"{prefix}taken", ["event"])
    if op.get_bind().dialect.name == "mysql":
        lease = sa.table(f"{prefix}lease", sa.column("name"), sa.column("holder"), sa.column("until"))
        op.bulk_insert(lease, [{"name": name, "holder": "", "until": 0} for name in GATES])
