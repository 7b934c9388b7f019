"""What a person wants to know of a step: the blocks that it is a branch of, and its failed attempts."""

import sqlalchemy as sa
from alembic import context, op

from celery_durable.store.tables import bounded, unbounded

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    prefix = context.config.attributes["prefix"]
    op.add_column(f"{prefix}step", sa.Column("block", bounded(255)))
    op.add_column(f"{prefix}step", sa.Column("tries", unbounded()))
