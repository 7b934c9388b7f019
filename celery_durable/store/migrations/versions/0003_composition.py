"""Runs that call others, the order in which a body gets its answers, and cancelling."""

import sqlalchemy as sa
from alembic import context, op

from celery_durable.store.tables import bounded

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    prefix = context.config.attributes["prefix"]
    for column in (
        sa.Column("parent_id", bounded(255)),
        sa.Column("parent_step", bounded(255)),
        sa.Column("kind", bounded(12)),
        sa.Column("quorum", sa.Integer),
        sa.Column("cancelling", bounded(500)),
    ):
        op.add_column(f"{prefix}run", column)
    op.create_index(f"ix_{prefix}run_parent", f"{prefix}run", ["parent_id"])
    op.add_column(f"{prefix}step", sa.Column("child", bounded(255)))
    op.add_column(f"{prefix}step", sa.Column("seen", sa.Integer))
